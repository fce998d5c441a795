"""A cache of latents and prompt embeddings, read row by row; :mod:`mmtoolkit.distill.cache` writes it.

FOLDER/cache.json               what was asked and which pictures have which prompts
FOLDER/text-00000.safetensors   embeddings of 256 different prompts
FOLDER/empty.safetensors        the same for no prompt
FOLDER/latents-00000.safetensors latents of 256 pictures, and of their mirror images with `data.flip`
"""

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
REQUEST = ("family", "base", "size", "flip", "precision", "seed", "fingerprint")
"""Facts in which an unfinished cache must agree with the settings to be continued."""


@dataclass(frozen=True)
class CachedExamples:
    """A cache, read row by row; see :class:`mmtoolkit.distill.models.denoiser.Examples`.

    Attributes:
        folder: the cache's folder.
        facts: content of cache.json.
        no_prompt: condition of one row without a prompt.
    """

    folder: Path
    facts: dict[str, Any]
    no_prompt: Condition
    _open: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        """Count the pictures; with `flip` each one counts twice, the second time mirrored."""
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
            self._row("latents", "mirrored" if turned else "latents", row)
            for turned, row in zip(mirrored, own, strict=True)
        ]
        return torch.cat(latents).float(), self.conditions([self.facts["prompt_of"][row] for row in own])

    def texts(self, rows: Tensor) -> list[str]:
        """Return the prompts of some pictures; empty for pictures without one."""
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
        first = row % SHARD
        return self._open[file].get_slice(name)[first : first + 1]  # type: ignore[no-any-return]


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
    if not {*REQUEST, "prompts", "prompt_of"} <= facts.keys():
        raise CheckpointError(f"{folder / FACTS}: damaged, or of another version; make another cache")
    missing = [name for name in shard_files(facts) if not (folder / name).is_file()]
    if missing:
        raise DataError(
            f"the cache is not finished ({len(missing)} files are missing, as {missing[0]})",
            path=folder,
            hint=f"run `mmtk distill cache` again with -o {folder}; it continues",
        )
    if settings is not None:
        for name, value in (("family", settings.model.family), ("base", base_path(settings.model.base))):
            if facts[name] != value:
                raise ConfigError(
                    f"model.{name}: {value}, but the cache {folder} was made for {facts[name]}; "
                    "make another with `mmtk distill cache`"
                )
    return CachedExamples(folder, facts, read_tensors(folder / "empty.safetensors")[0])


def base_path(base: str) -> str:
    """Return a local base as an absolute path, so that caches of one base agree."""
    return str(Path(base).resolve()) if Path(base).exists() else base


def shard_name(kind: str, number: int) -> str:
    """Name a shard."""
    return f"{kind}-{number:05d}.safetensors"


def shard_names(kind: str, count: int) -> list[str]:
    """Name the shards of so many rows."""
    return [shard_name(kind, number) for number in range(-(-count // SHARD))]


def shard_files(facts: dict[str, Any]) -> list[str]:
    """Name all files of a finished cache, besides its facts."""
    texts = shard_names("text", len(facts["prompts"]))
    return [*texts, "empty.safetensors", *shard_names("latents", len(facts["prompt_of"]))]
