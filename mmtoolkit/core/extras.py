"""Optional packages, loaded when a command needs them."""

from importlib import import_module
from types import ModuleType

from mmtoolkit.core.errors import UsageError


def need(module: str, extra: str, purpose: str) -> ModuleType:
    """Import an optional package.

    Args:
        module: what to import.
        extra: extra of mmtoolkit that installs it.
        purpose: what needs it, for the message.

    Raises:
        UsageError: if it is not installed, with the command that installs it.
    """
    try:
        return import_module(module)
    except ImportError:
        raise UsageError(f"{purpose} needs {module}: pip install 'mmtoolkit[{extra}]'") from None
