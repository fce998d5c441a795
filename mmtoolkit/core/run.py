"""A run's folder: what was asked, on what machine, what came out.

runs/<engine>/<date>_<time>_<preset>-s<seed>/
config.yaml command.txt env.json run.log metrics.jsonl results.json report.html plots/ checkpoints/
"""

import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Self

from mmtoolkit import __version__
from mmtoolkit.core.config import Resolved, Settings
from mmtoolkit.core.errors import CheckpointError, UsageError
from mmtoolkit.core.logging import log_to_file

LAST, BEST, MODEL_FILE = "last", "best", "model.safetensors"
"""Links to checkpoints, and the file that makes a folder a checkpoint."""


def default_run_path(engine: str, preset: str, seed: int) -> Path:
    """Name a new run below ``runs/``; a second run in the same second gets a number."""
    stamp = time.strftime("%Y-%m-%d_%H%M%S")
    path = base = Path("runs") / engine / f"{stamp}_{preset}-s{seed}"
    number = 2
    while path.exists():
        path = base.with_name(f"{base.name}-{number}")
        number += 1
    return path


def check_new(path: Path, *, resumable: bool = False) -> None:
    """Refuse an `output` that would be written over.

    Args:
        path: new or empty folder.
        resumable: whether the command could continue what is there.

    Raises:
        UsageError: if it is a file or a folder that is not empty.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        other = f", or continue that run with `resume` {path}" if resumable else ""
        raise UsageError(f"`output` {path}: already there and not empty; name another folder{other}")


@dataclass(frozen=True)
class RunDirectory:
    """The folder of one run.

    Attributes:
        path: where it is, or will be once :meth:`start` has made it.
        config: settings still to be written; empty for an existing run.
    """

    path: Path
    config: str = ""

    @classmethod
    def new(cls, path: Path, config: str) -> Self:
        """Plan a run in a new or empty folder; :meth:`start` makes it.

        Args:
            path: new or empty folder.
            config: the resolved settings as YAML.

        Raises:
            UsageError: if `path` is a file or a folder that is not empty.
        """
        check_new(path, resumable=True)
        return cls(path, config)

    @classmethod
    def of(cls, run: Self | Path, settings: Settings, *, resume: bool = False) -> Self:
        """Return a given run; for a folder plan a new run with these settings, or open the one to resume."""
        if not isinstance(run, Path):
            return run
        return cls.open(run) if resume else cls.new(run, Resolved.given(settings).to_yaml())

    def start(self) -> None:
        """Make the folder of a new run and write what was asked and where it runs.

        Raises:
            UsageError: if the folder cannot be made.
        """
        if not self.config:
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"`output` {self.path}: cannot be made: {error.strerror}") from None
        write_atomic(self.config_path, self.config)
        write_atomic(self.path / "command.txt", shlex.join(["mmtk", *sys.argv[1:]]) + "\n")
        write_atomic(self.path / "env.json", json.dumps(environment(), indent=2) + "\n")

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open the folder of an earlier run.

        Raises:
            CheckpointError: if it is not the folder of a run.
        """
        if not (path / "config.yaml").is_file():
            raise CheckpointError(f"{path}: not the folder of a run (it has no config.yaml)")
        return cls(path)

    @classmethod
    def locate(cls, checkpoint: Path) -> tuple[Self, Path]:
        """Return the run and the checkpoint that a folder means: a run (its best or last), or a checkpoint.

        Raises:
            CheckpointError: if it is neither.
        """
        if not checkpoint.exists():
            raise CheckpointError(f"{checkpoint}: no such run; name a folder below runs/")
        if (checkpoint / MODEL_FILE).is_file():
            return cls.open(checkpoint.resolve().parent.parent), checkpoint
        run = cls.open(checkpoint)
        return run, run.checkpoint(BEST if (run.checkpoints / BEST).is_symlink() else LAST)

    def checkpoint(self, which: str = LAST) -> Path:
        """Return the folder of the ``last``, the ``best`` or a numbered checkpoint.

        Raises:
            CheckpointError: if there is no such checkpoint.
        """
        path = self.checkpoints / which
        if not (path / MODEL_FILE).is_file():
            raise CheckpointError(f"{path}: no checkpoint there; was the run stopped before its first?")
        return path.resolve()

    @property
    def config_path(self) -> Path:
        """The resolved settings, which can be fed back with ``--config``."""
        return self.path / "config.yaml"

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def results_path(self) -> Path:
        """What the finished run measured."""
        return self.path / "results.json"

    @contextmanager
    def logging(self) -> Iterator[None]:
        """Keep every log line in run.log while the context is open."""
        with log_to_file(self.path / "run.log"):
            yield

    def log_metrics(self, record: Mapping[str, Any]) -> None:
        """Append one object to metrics.jsonl and flush it."""
        with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(record) + "\n")

    def read_metrics(self) -> list[dict[str, Any]]:
        """Read metrics.jsonl; a line cut by a kill is left out."""
        path = self.path / "metrics.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        return [json.loads(line) for line in lines if line.endswith("}")]

    def rewind_metrics(self, key: str, last: int) -> None:
        """Drop the lines whose ``key`` lies beyond ``last``, as a resumed run writes them again."""
        kept = [record for record in self.read_metrics() if record[key] <= last]
        write_atomic(self.path / "metrics.jsonl", "".join(json.dumps(record) + "\n" for record in kept))

    def read_environment(self) -> dict[str, Any]:
        """Read env.json: the machine and the versions that the run began with."""
        values: dict[str, Any] = json.loads((self.path / "env.json").read_text(encoding="utf-8"))
        return values

    def write_results(self, results: Mapping[str, Any]) -> None:
        """Write results.json."""
        write_atomic(self.results_path, json.dumps(results, indent=2) + "\n")


def write_atomic(path: Path, text: str) -> None:
    """Write a text file so that a kill leaves the old one or the new one, never half of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)


def environment() -> dict[str, Any]:
    """Describe the machine and the versions that matter, without importing any of them."""
    memory = total_memory()
    return {
        "mmtoolkit": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": memory and round(memory / 2**30, 1),
        "packages": {name: _version(name) for name in _PACKAGES},
    }


_PACKAGES = [
    "torch",
    "numpy",
    "scipy",
    "torch-geometric",
    "diffusers",
    "peft",
    "accelerate",
    "transformers",
    "safetensors",
    "face-alignment",
    "pydantic",
    "typer",
    "rich",
    "pillow",
    "matplotlib",
]


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def total_memory() -> int | None:
    """Return the bytes of this machine's memory, or None if the system does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None
