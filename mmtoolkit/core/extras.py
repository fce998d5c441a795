"""Optional packages, loaded when a command needs them."""

from importlib import import_module
from pathlib import Path
from types import ModuleType

from mmtoolkit.core.errors import UsageError

_CHECKOUT = Path(__file__).resolve().parent.parent.parent


def need(module: str, extra: str, purpose: str) -> ModuleType:
    """Import an optional package.

    Args:
        module: what to import.
        extra: extra of `mmtk` that installs it.
        purpose: what needs it, for the message.

    Raises:
        UsageError: if it is not installed, with the command that installs it.
    """
    try:
        return import_module(module)
    except ImportError as error:
        missing = getattr(error, "name", None) or module
        raise UsageError(f"{purpose} needs {missing}: {install_command(extra)}") from None


def install_command(extra: str) -> str:
    """Return the command that installs an extra, from the checkout if this is one."""
    if (_CHECKOUT / "pyproject.toml").is_file():
        return f"pip install -e '{_CHECKOUT}[{extra}]'"
    return f"pip install 'mmtk[{extra}]'"
