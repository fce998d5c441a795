"""Latents and prompt embeddings, encoded once, so that training needs neither autoencoder nor text encoders.

    FOLDER/cache.json               what was asked and what is where
    FOLDER/text-00000.safetensors   embeddings of 256 different prompts
    FOLDER/empty.safetensors        the same for no prompt
    FOLDER/latents-00000.safetensors latents of 256 pictures, and of their mirror images with `data.flip`

Files appear whole or not at all; a stopped run continues with the next one.
"""

import json
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from mmtoolkit.core.device import resolve_device
from mmtoolkit.core.errors import UsageError
from mmtoolkit.core.files import fingerprint, read_json_file
from mmtoolkit.core.logging import logger
from mmtoolkit.core.progress import progress_bar
from mmtoolkit.core.run import check_new, write_atomic
from mmtoolkit.distill.config import DistillSettings
from mmtoolkit.distill.data import cached
from mmtoolkit.distill.data.cached import (
    FACTS,
    IDENTITY,
    CachedExamples,
    open_cache,
    resolved_base,
    shard_name,
    shard_names,
)
from mmtoolkit.distill.data.read import Pictures, open_pictures
from mmtoolkit.distill.models.families import Autoencoder, Source, encode_in_parts


def write_cache(settings: DistillSettings, folder: Path, pictures: Pictures | None = None) -> CachedExamples:
    """Encode all prompts, then all pictures; existing files are kept.

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
    names = shard_names("latents", len(pictures))
    row_files = ((row, folder / names[row // cached.SHARD]) for row in range(len(pictures)))
    todo = [row for row, file in row_files if not file.is_file()]
    with ThreadPoolExecutor(max_workers=4) as pool, progress_bar("checking pictures", len(todo)) as advance:
        for _ in pool.map(pictures.load, todo):
            advance("")
    return pictures


def describe_work(settings: DistillSettings) -> dict[str, int | str]:
    """Check data and base without encoding, and return the sizes of the work.

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
        "base": resolved_base(source.base),
        "size": picture_size(settings, source),
        "flip": settings.data.flip,
        "precision": settings.precision,
        "seed": settings.seed,
        "data": pictures.name,
        "fingerprint": fingerprint([list(pictures.names), list(pictures.texts)]),
        "prompts": prompts,
        "prompt_of": [number.get(one, -1) for one in pictures.texts],
    }


def _start(folder: Path, facts: dict[str, Any]) -> None:
    """Make a new folder, or accept an unfinished cache of the same settings."""
    path = folder / FACTS
    if path.is_file():
        before = read_json_file(path)
        changed = [name for name in IDENTITY if before.get(name) != facts[name]]
        if changed:
            name = changed[0]
            raise UsageError(
                f"`output` {folder}: holds a cache with another {name} ({before.get(name)}, now "
                f"{facts[name]}); name another folder"
            )
        return
    check_new(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps(facts) + "\n")


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    temporary = path.with_name(f".{path.name}")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary)
    temporary.replace(path)


def _write_texts(source: Source, settings: DistillSettings, folder: Path, facts: dict[str, Any]) -> None:
    prompts = facts["prompts"]
    names = shard_names("text", len(prompts)) or [shard_name("text", 0)]
    todo = [n for n, name in enumerate(names) if not (folder / name).is_file()] if prompts else [0]
    if (folder / "empty.safetensors").is_file() and (not todo or not prompts):
        return
    parts = [prompts[n * cached.SHARD : (n + 1) * cached.SHARD] or [""] for n in todo or [0]]
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
    names = shard_names("latents", len(pictures))
    todo = [number for number, name in enumerate(names) if not (folder / name).is_file()]
    device = resolve_device(settings.device)
    autoencoder = Autoencoder(source, facts["size"])
    dtype = torch.float32 if settings.precision == "float32" else torch.float16
    logger.info("encoding %d pictures at %d x %d", len(pictures), facts["size"], facts["size"])
    with progress_bar("shards of pictures", len(names), len(names) - len(todo)) as advance:
        for number in todo:
            rows = range(number * cached.SHARD, min((number + 1) * cached.SHARD, len(pictures)))
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
