"""A cache of latents and prompt embeddings, read row by row; `mmtk distill cache` writes it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmtoolkit.core.errors import CheckpointError, ConfigError, DataError
from mmtoolkit.core.files import open_tensors, read_json_file, read_tensors
from mmtoolkit.distill.config import DistillSettings
from mmtoolkit.distill.models.denoiser import Condition

SHARD = 256
FACTS = "cache.json"
IDENTITY = ("family", "base", "size", "flip", "precision", "seed", "fingerprint")


@dataclass(frozen=True)
class CachedExamples:
    """A cache, read row by row; see :class:`mmtoolkit.distill.models.denoiser.Examples`.

    Attributes:
        folder: its folder.
        facts: content of cache.json.
        no_prompt: condition of one row without a prompt.
    """

    folder: Path
    facts: dict[str, Any]
    no_prompt: Condition
    _open: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        """Count the pictures; with `flip` each counts twice, the second time mirrored."""
        return self._pictures * (2 if self.facts["flip"] else 1)

    @property
    def _pictures(self) -> int:
        return len(self.facts["prompt_of"])

    @property
    def prompts(self) -> list[str]:
        """The different prompts, in the order of their embeddings."""
        return list(self.facts["prompts"])

    def batch(self, rows: Tensor) -> tuple[Tensor, Condition]:
        """Return latents `(rows, *shape)` in float32 and the embeddings of their prompts."""
        own = (rows % self._pictures).tolist()
        mirrored = (rows >= self._pictures).tolist()
        latents = [
            self._row("latents", "mirrored" if flipped else "latents", row)
            for flipped, row in zip(mirrored, own, strict=True)
        ]
        return torch.cat(latents).float(), self.conditions([self.facts["prompt_of"][row] for row in own])

    def texts(self, rows: Tensor) -> list[str]:
        """Return the prompts of some pictures; an empty one where there is none."""
        numbers = [self.facts["prompt_of"][row] for row in (rows % self._pictures).tolist()]
        return [self.facts["prompts"][number] if number >= 0 else "" for number in numbers]

    def conditions(self, prompts: Sequence[int]) -> Condition:
        """Return the embeddings of prompts by number; -1 is no prompt."""
        return {
            name: torch.cat([empty if p < 0 else self._row("text", name, p) for p in prompts])
            for name, empty in self.no_prompt.items()
        }

    def _row(self, shard: str, name: str, row: int) -> Tensor:
        file = shard_name(shard, row // SHARD)
        if file not in self._open:
            self._open[file] = open_tensors(self.folder / file)
        offset = row % SHARD
        return self._open[file].get_slice(name)[offset : offset + 1]  # type: ignore[no-any-return]


def is_cache(path: Path | None) -> bool:
    """Return whether a path is the folder of a cache."""
    return path is not None and (path / FACTS).is_file()


def open_cache(folder: Path, settings: DistillSettings | None = None) -> CachedExamples:
    """Open a finished cache and check that it was made for these settings.

    Raises:
        DataError: if it is not finished.
        CheckpointError: if it is damaged.
        ConfigError: if it was made for another family or base.
    """
    facts = read_json_file(folder / FACTS)
    if not {*IDENTITY, "prompts", "prompt_of"} <= facts.keys():
        raise CheckpointError(f"{folder / FACTS}: damaged, or of another version; make another cache")
    missing = [name for name in cache_files(facts) if not (folder / name).is_file()]
    if missing:
        raise DataError(
            f"the cache is not finished ({len(missing)} files are missing, as {missing[0]})",
            path=folder,
            hint=f"run `mmtk distill cache` again with -o {folder}; it continues",
        )
    if settings is not None:
        for name, value in (("family", settings.model.family), ("base", resolved_base(settings.model.base))):
            if facts[name] != value:
                raise ConfigError(
                    f"model.{name}: {value}, but the cache {folder} was made for {facts[name]}; "
                    "make another with `mmtk distill cache`"
                )
    return CachedExamples(folder, facts, read_tensors(folder / "empty.safetensors")[0])


def shard_name(kind: str, number: int) -> str:
    """Return the name of a file of :data:`SHARD` rows."""
    return f"{kind}-{number:05d}.safetensors"


def shard_names(kind: str, count: int) -> list[str]:
    """Return the names of the files that hold `count` rows."""
    return [shard_name(kind, number) for number in range(-(-count // SHARD))]


def cache_files(facts: dict[str, Any]) -> list[str]:
    """Return the names of all files of a finished cache."""
    texts = shard_names("text", len(facts["prompts"]))
    return [*texts, "empty.safetensors", *shard_names("latents", len(facts["prompt_of"]))]


def resolved_base(base: str) -> str:
    """Return the absolute path of a local base; a hub id stays unchanged."""
    return str(Path(base).resolve()) if Path(base).exists() else base
