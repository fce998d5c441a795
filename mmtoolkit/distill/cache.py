"""Latents and prompt embeddings, encoded once, so that training needs neither autoencoder nor text encoders.

    FOLDER/cache.json               what was asked and what is where
    FOLDER/text-00000.safetensors   embeddings of 256 different prompts
    FOLDER/empty.safetensors        the same for no prompt
    FOLDER/latents-00000.safetensors latents of 256 pictures, and of their mirror images with `data.flip`

Files appear whole or not at all; a stopped run continues with the next one.
"""

import json
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from mmtoolkit.core.device import resolve_device
from mmtoolkit.core.errors import CheckpointError, ConfigError, DataError, UsageError
from mmtoolkit.core.files import fingerprint, open_tensors, read_json_file, read_tensors
from mmtoolkit.core.logging import logger
from mmtoolkit.core.progress import progress_bar
from mmtoolkit.core.run import write_atomic
from mmtoolkit.distill.config import DistillSettings
from mmtoolkit.distill.data.read import Pictures, open_pictures
from mmtoolkit.distill.models.denoiser import Condition
from mmtoolkit.distill.models.families import Autoencoder, Source, encode_in_parts

SHARD = 256
FACTS = "cache.json"
_SAME = ("family", "base", "size", "flip", "precision", "seed", "fingerprint")


@dataclass(frozen=True)
class CachedExamples:
    """A cache, read row by row; see :class:`mmtoolkit.distill.models.denoiser.Examples`.

    Attributes:
        folder: where it lies.
        facts: what cache.json says.
        no_prompt: condition of one row without a prompt.
    """

    folder: Path
    facts: dict[str, Any]
    no_prompt: Condition
    _open: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        """Count the pictures; with `flip` every one stands twice, the second time mirrored."""
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
        file = _shard(shard, row // SHARD)
        if file not in self._open:
            self._open[file] = open_tensors(self.folder / file)
        place = row % SHARD
        return self._open[file].get_slice(name)[place : place + 1]  # type: ignore[no-any-return]


def is_cache(path: Path | None) -> bool:
    """Tell whether a path is the folder of a cache."""
    return path is not None and (path / FACTS).is_file()


def open_cache(folder: Path, settings: DistillSettings | None = None) -> CachedExamples:
    """Open a finished cache and check that it was made for these settings.

    Raises:
        DataError: if it is not finished.
        CheckpointError: if it is damaged.
        ConfigError: if it was made for another family or base.
    """
    facts = read_json_file(folder / FACTS)
    if not {*_SAME, "prompts", "prompt_of"} <= facts.keys():
        raise CheckpointError(f"{folder / FACTS}: damaged, or of another version; make another cache")
    missing = [name for name in _files(facts) if not (folder / name).is_file()]
    if missing:
        raise DataError(
            f"the cache is not finished ({len(missing)} files are missing, as {missing[0]})",
            path=folder,
            hint=f"run `mmtk distill cache` again with -o {folder}; it continues",
        )
    if settings is not None:
        for name, value in (("family", settings.model.family), ("base", _place(settings.model.base))):
            if facts[name] != value:
                raise ConfigError(
                    f"model.{name}: {value}, but the cache {folder} was made for {facts[name]}; "
                    "make another with `mmtk distill cache`"
                )
    return CachedExamples(folder, facts, read_tensors(folder / "empty.safetensors")[0])


def write_cache(settings: DistillSettings, folder: Path, pictures: Pictures | None = None) -> CachedExamples:
    """Encode all prompts, then all pictures; what is there already is kept.

    Args:
        settings: data, model, precision, seed and device are used.
        folder: new, empty, or an unfinished cache of the same settings.
        pictures: from :func:`checked_pictures`, which is called if they are not given.

    Raises:
        DataError: if the pictures or their texts cannot be used.
        CheckpointError: if the base cannot be loaded.
        UsageError: if the folder holds something else.
    """
    source = Source.open(settings.model.base, settings.model.family, settings.model.layout)
    pictures = checked_pictures(settings, folder) if pictures is None else pictures
    facts = _plan(settings, source, pictures)
    _start(folder, facts)
    _write_texts(source, settings, folder, facts)
    _write_latents(source, settings, folder, pictures, facts)
    return open_cache(folder)


def checked_pictures(settings: DistillSettings, folder: Path) -> Pictures:
    """Find the pictures behind `data.path` and open all that are still to be encoded into `folder`.

    Raises:
        DataError: if they or their texts cannot be used; nothing has been written then.
    """
    pictures = open_pictures(settings.data)
    names = _shards("latents", len(pictures))
    todo = [row for row in range(len(pictures)) if not (folder / names[row // SHARD]).is_file()]
    with ThreadPoolExecutor(max_workers=4) as pool, progress_bar("checking pictures", len(todo)) as advance:
        for _ in pool.map(pictures.load, todo):
            advance("")
    return pictures


def describe_work(settings: DistillSettings) -> dict[str, int | str]:
    """Check data and base without encoding, and tell the sizes of the work.

    Raises:
        DataError: if the pictures or their texts cannot be used.
        CheckpointError: if the base cannot be found.
    """
    source = Source.open(settings.model.base, settings.model.family, settings.model.layout)
    pictures = open_pictures(settings.data)
    facts = _plan(settings, source, pictures)
    autoencoder = Autoencoder(source, facts["size"])
    width = 4 if settings.precision == "float32" else 2
    latents = len(pictures) * math.prod(autoencoder.shape) * width * (2 if facts["flip"] else 1)
    return {
        "base": source.base,
        "pictures": len(pictures),
        "prompts": len(facts["prompts"]),
        "size": facts["size"],
        "latents": " x ".join(str(n) for n in autoencoder.shape),
        "latents_bytes": latents,
    }


def picture_size(settings: DistillSettings, source: Source) -> int:
    """Return `data.size`, or the side in pixels of the pictures that the base was trained on."""
    if settings.data.size:
        return settings.data.size
    network, vae = source.config(source.family.part), source.config("vae")
    side = network.get("sample_size") or 128
    return int(side) << (len(vae["block_out_channels"]) - 1)


def _plan(settings: DistillSettings, source: Source, pictures: Pictures) -> dict[str, Any]:
    prompts = sorted(set(pictures.texts)) if pictures.kind != "none" else []
    number = {prompt: index for index, prompt in enumerate(prompts)}
    return {
        "family": source.family.name,
        "base": _place(source.base),
        "size": picture_size(settings, source),
        "flip": settings.data.flip,
        "precision": settings.precision,
        "seed": settings.seed,
        "data": pictures.name,
        "fingerprint": fingerprint([list(pictures.names), list(pictures.texts)]),
        "prompts": prompts,
        "prompt_of": [number.get(one, -1) for one in pictures.texts],
    }


def _place(base: str) -> str:
    return str(Path(base).resolve()) if Path(base).exists() else base


def _start(folder: Path, facts: dict[str, Any]) -> None:
    """Take a new folder, or an earlier cache that was asked for in the same words."""
    path = folder / FACTS
    if path.is_file():
        before = read_json_file(path)
        changed = [name for name in _SAME if before.get(name) != facts[name]]
        if changed:
            name = changed[0]
            raise UsageError(
                f"--output {folder}: holds a cache with another {name} ({before.get(name)}, now "
                f"{facts[name]}); name another folder"
            )
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"--output {folder}: already there and not a cache; name another folder")
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps(facts) + "\n")


def _shard(kind: str, number: int) -> str:
    return f"{kind}-{number:05d}.safetensors"


def _shards(kind: str, count: int) -> list[str]:
    return [_shard(kind, number) for number in range(-(-count // SHARD))]


def _files(facts: dict[str, Any]) -> list[str]:
    texts = _shards("text", len(facts["prompts"]))
    return [*texts, "empty.safetensors", *_shards("latents", len(facts["prompt_of"]))]


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    temporary = path.with_name(f".{path.name}")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary)
    temporary.replace(path)


def _write_texts(source: Source, settings: DistillSettings, folder: Path, facts: dict[str, Any]) -> None:
    prompts = facts["prompts"]
    names = _shards("text", len(prompts)) or [_shard("text", 0)]
    todo = [n for n, name in enumerate(names) if not (folder / name).is_file()] if prompts else [0]
    if (folder / "empty.safetensors").is_file() and (not todo or not prompts):
        return
    parts = [prompts[n * SHARD : (n + 1) * SHARD] or [""] for n in todo or [0]]
    device = resolve_device(settings.device)
    logger.info("encoding %d different prompts", len(prompts))
    with progress_bar("prompts", len(parts)) as advance:
        encoded = encode_in_parts(source, parts, settings.precision, device)
        for number, (condition, empty) in zip(todo or [0], encoded, strict=True):
            if prompts:
                _save(condition, folder / names[number])
            _save(empty, folder / "empty.safetensors")
            advance("")


def _write_latents(
    source: Source, settings: DistillSettings, folder: Path, pictures: Pictures, facts: dict[str, Any]
) -> None:
    names = _shards("latents", len(pictures))
    todo = [number for number, name in enumerate(names) if not (folder / name).is_file()]
    device = resolve_device(settings.device)
    autoencoder = Autoencoder(source, facts["size"])
    dtype = torch.float32 if settings.precision == "float32" else torch.float16
    logger.info("encoding %d pictures at %d x %d", len(pictures), facts["size"], facts["size"])
    with progress_bar("shards of pictures", len(names), len(names) - len(todo)) as advance:
        for number in todo:
            rows = range(number * SHARD, min((number + 1) * SHARD, len(pictures)))
            generator = torch.Generator().manual_seed(settings.seed * len(names) + number)
            shard = _encode_shard(autoencoder, pictures, rows, facts, device, generator)
            _save({name: latents.to(dtype) for name, latents in shard.items()}, folder / names[number])
            advance("")


def _encode_shard(
    autoencoder: Autoencoder,
    pictures: Pictures,
    rows: range,
    facts: dict[str, Any],
    device: torch.device,
    generator: torch.Generator,
    at_once: int = 4,
) -> dict[str, Tensor]:
    latents: dict[str, list[Tensor]] = {"latents": [], "mirrored": []} if facts["flip"] else {"latents": []}
    with ThreadPoolExecutor(max_workers=4) as pool:
        for start in range(rows.start, rows.stop, at_once):
            chosen = range(start, min(start + at_once, rows.stop))
            arrays = list(pool.map(lambda row: pictures.pixels(row, facts["size"]), chosen))
            batch = torch.from_numpy(np.stack(arrays)).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
            for kind, found in latents.items():
                turned = batch.flip(3) if kind == "mirrored" else batch
                found.append(autoencoder.encode(turned, generator).cpu())
    return {kind: torch.cat(found) for kind, found in latents.items()}
