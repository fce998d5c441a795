"""One command over three engines: recommend, distill and landmarks share one small core."""

from pathlib import Path

__version__ = "0.1.0"

# In a source checkout the command line and the presets live beside this folder, not inside it.
_checkout = Path(__file__).resolve().parent.parent
if (_checkout / "pyproject.toml").is_file():
    __path__.append(str(_checkout))
