"""Packages that import their names on first use (PEP 562), so that importing them loads nothing heavy."""

import sys
from collections.abc import Mapping
from importlib import import_module
from types import ModuleType
from typing import Any


class LazyPackage(ModuleType):
    """A package that exports names of its modules.

    A function may have the name of the module in which it is defined, as `train` in `train.py`: the package
    then shows the function, and the import statement still finds the module.
    """

    _exports: Mapping[str, str]

    def __getattr__(self, name: str) -> Any:
        """Import the module that defines an exported name and return what it names."""
        if name not in self._exports:
            raise AttributeError(f"module '{self.__name__}' has no attribute '{name}'")
        return getattr(import_module(f"{self.__name__}.{self._exports[name]}"), name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute, except that a module, once imported, does not hide the function of its name."""
        if not (name in self._exports and isinstance(value, ModuleType)):
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        """List the exported names."""
        return sorted(self._exports)


def export(package: str, exports: Mapping[str, str]) -> list[str]:
    """Make a package export names lazily and return them for its `__all__`.

    Args:
        package: `__name__` of the package.
        exports: by name, the module inside the package that defines it.
    """
    module = sys.modules[package]
    module._exports = exports  # type: ignore[attr-defined]
    module.__class__ = LazyPackage
    return sorted(exports)
