"""Checkpoints that a kill cannot damage.

    checkpoints/000500/{model.safetensors,state.pt,meta.json}   last -> 000500   best -> 000400

A checkpoint is written under a temporary name, flushed to the disk, then renamed; the links move
after that. Whatever happens, ``last`` names a whole checkpoint.
"""

import json
import os
import pickle
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mmtoolkit.core.errors import CheckpointError
from mmtoolkit.core.run import BEST, LAST, MODEL_FILE


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds.

    Attributes:
        model: named weights, enough to predict.
        state: everything else that training needs to go on: tensors and plain types.
        meta: small facts for people and checks, as JSON.
    """

    model: dict[str, Tensor]
    state: dict[str, Any]
    meta: dict[str, Any]


def save_checkpoint(
    folder: Path,
    step: int,
    checkpoint: Checkpoint,
    *,
    best: bool = False,
    keep: int = 1,
) -> Path:
    """Write checkpoint ``step`` below ``folder``, point the links at it and delete old ones.

    Args:
        folder: the run's ``checkpoints`` folder; made if missing.
        step: number of the epoch or step; names the folder.
        checkpoint: what to write.
        best: also make it the best one so far.
        keep: newest checkpoints that stay, besides the best one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"{step:06d}"
    temporary = folder / f".{final.name}.{os.getpid()}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.model.items()}
    save_file(weights, temporary / MODEL_FILE)
    torch.save(checkpoint.state, temporary / "state.pt")
    meta = json.dumps({"step": step, **checkpoint.meta}, indent=2) + "\n"
    (temporary / "meta.json").write_text(meta, encoding="utf-8")
    for file in temporary.iterdir():
        _fsync(file)
    shutil.rmtree(final, ignore_errors=True)
    temporary.rename(final)
    _fsync(folder)
    for link in [BEST, LAST] if best else [LAST]:
        _point(folder / link, final.name)
    _prune(folder, keep)
    return final


def load_checkpoint(path: Path, *, state: bool = True) -> Checkpoint:
    """Read a checkpoint onto the CPU.

    Args:
        path: folder of one checkpoint, see :meth:`~mmtoolkit.core.run.RunDirectory.checkpoint`.
        state: also read what only training needs.

    Raises:
        CheckpointError: if a file is missing or damaged.
    """
    try:
        model = load_file(path / MODEL_FILE)
        meta = json.loads((path / "meta.json").read_text(encoding="utf-8"))
        training = {}
        if state:
            training = torch.load(path / "state.pt", map_location="cpu", weights_only=True)
    except (OSError, ValueError, RuntimeError, EOFError, pickle.UnpicklingError, SafetensorError) as error:
        raise CheckpointError(f"{path}: damaged checkpoint: {str(error).splitlines()[0]}") from error
    return Checkpoint(model, training, meta)


def matching_weights(
    given: Mapping[str, Tensor], wanted: Mapping[str, Tensor], path: Path
) -> dict[str, Tensor]:
    """Return the weights named in ``wanted``, after comparing names and shapes.

    Raises:
        CheckpointError: naming the first weight that is missing or has another shape.
    """
    for name, tensor in wanted.items():
        if name not in given:
            raise CheckpointError(f"{path}: holds no weight '{name}'; is it from another model?")
        if given[name].shape != tensor.shape:
            raise CheckpointError(
                f"{path}: weight '{name}' has shape {tuple(given[name].shape)}, "
                f"this model needs {tuple(tensor.shape)}"
            )
    return {name: given[name] for name in wanted}


def _point(link: Path, target: str) -> None:
    temporary = link.with_name(f".{link.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    temporary.replace(link)


def _prune(folder: Path, keep: int) -> None:
    """Delete the checkpoints that are neither linked nor among the newest, and what a kill left behind."""
    kept = {(folder / link).readlink().name for link in (LAST, BEST) if (folder / link).is_symlink()}
    folders = [entry for entry in folder.iterdir() if entry.is_dir() and not entry.is_symlink()]
    kept |= set(sorted(entry.name for entry in folders if entry.name.isdecimal())[-keep:])
    for entry in folders:
        if entry.name not in kept:
            shutil.rmtree(entry)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
