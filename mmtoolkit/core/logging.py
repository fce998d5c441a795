"""One logger for the whole toolkit: people read it on stderr, and every run keeps it in run.log."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

logger = logging.getLogger("mmtoolkit")
console = Console(stderr=True)
"""The only console on stderr, so that log lines and progress bars do not cut each other."""


class ConsoleHandler(logging.Handler):
    """Print log lines above a progress bar, unwrapped."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record; warnings stand out."""
        style = "yellow" if record.levelno >= logging.WARNING else ""
        console.print(self.format(record), style=style, markup=False, highlight=False, soft_wrap=True)


def setup_logging(verbosity: int = 0) -> None:
    """Send log lines to stderr: warnings only at -1 (quiet), notes at 0, everything from 1."""
    handler = ConsoleHandler({-1: logging.WARNING, 0: logging.INFO}.get(verbosity, logging.DEBUG))
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logger.handlers[:] = [handler]
    logger.setLevel(logging.DEBUG)
    logger.propagate = False


def is_quiet() -> bool:
    """Return whether the user asked for warnings only (or never set up logging)."""
    return not any(isinstance(h, ConsoleHandler) and h.level <= logging.INFO for h in logger.handlers)


@contextmanager
def log_to_file(path: Path) -> Iterator[None]:
    """Append every log line to `path` while the context is open."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    previous = logger.level
    logger.setLevel(logging.DEBUG)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(previous)
        handler.close()
