"""Errors that a user may see, each with the exit code of the command that ends with it.

    ToolkitError            1  anything below
    ├── StoppedError      130  a signal ended the run (143 after SIGTERM)
    ├── RunError            1  the run itself failed
    │   └── DivergenceError 1  a loss stopped being finite
    └── InputError          2  what was given cannot be used
        ├── UsageError      2  the command line
        ├── ConfigError     2  a setting
        ├── DataError       2  a data file, with its line if known
        └── CheckpointError 2  a run folder or a checkpoint

A message is one line: what is wrong, where, and what mends it. Arguments of functions are quoted with
backquotes, as in "`output` runs/a: not empty"; the command line shows the flag of that name instead.
"""

from pathlib import Path


class ToolkitError(Exception):
    """Base of every error that users see without a traceback."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        """Keep the line to print and a hint that goes on a line of its own."""
        super().__init__(message)
        self.message = message
        self.hint = hint


class RunError(ToolkitError):
    """The run failed for a reason of its own."""


class DivergenceError(RunError):
    """A loss became infinite or NaN."""


class StoppedError(ToolkitError):
    """A signal ended the run after a checkpoint was written."""

    def __init__(self, message: str, exit_code: int = 130) -> None:
        """Keep the exit code of the signal, 128 plus its number (a default, or it could not be pickled)."""
        super().__init__(message)
        self.exit_code = exit_code


class InputError(ToolkitError):
    """Something the user gave cannot be used."""

    exit_code = 2


class UsageError(InputError):
    """The options of a command do not go together."""


class ConfigError(InputError):
    """A setting is unknown, malformed or contradicts another."""


class CheckpointError(InputError):
    """A run folder or a checkpoint is missing, damaged or belongs to something else."""


class DataError(InputError):
    """A data file is missing or malformed."""

    def __init__(
        self, message: str, *, path: Path | None = None, line: int | None = None, hint: str = ""
    ) -> None:
        """Put ``path:line:`` in front of the message, as compilers do."""
        where = "" if path is None else f"{path}: " if line is None else f"{path}:{line}: "
        super().__init__(where + message, hint=hint)
        self.path = path
        self.line = line
