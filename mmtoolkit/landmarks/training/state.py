"""The state of a training run: set up, save, restore."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import nn

from mmtoolkit.core.checkpoint import Checkpoint, load_checkpoint, matching_weights, save_checkpoint
from mmtoolkit.core.device import (
    capture_rng,
    make_accelerator,
    resolve_device,
    restore_rng,
    seed_everything,
    use_bfloat16,
)
from mmtoolkit.core.errors import CheckpointError, ConfigError
from mmtoolkit.core.logging import logger
from mmtoolkit.core.run import RunDirectory
from mmtoolkit.core.training import Average, Best
from mmtoolkit.landmarks.config import LandmarkSettings
from mmtoolkit.landmarks.data.augment import Crops
from mmtoolkit.landmarks.data.batches import (
    Validation,
    fingerprint,
    split_photos,
    training_crops,
    validation_faces,
)
from mmtoolkit.landmarks.load import load_weights
from mmtoolkit.landmarks.models.networks import make_model
from mmtoolkit.landmarks.models.norms import share_norms
from mmtoolkit.landmarks.models.pretrained import find_pretrained, frozen_stages, load_pretrained

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass
class Training:
    """Everything that training holds.

    Attributes:
        settings: all settings.
        accelerator: joins the processes.
        crops: faces to train on.
        validation: faces to validate on.
        model: the network.
        wrapped: the network as the processes share it.
        optimizer: AdamW over the weights that are not frozen.
        average: averaged weights, which are validated and saved.
        use_bfloat16: whether products are computed in bfloat16.
        epoch: epochs trained.
        step: steps taken.
        best: the epoch with the lowest validation NME.
        seconds: time spent in epochs, validation excluded.
    """

    settings: LandmarkSettings
    accelerator: "Accelerator"
    crops: Crops
    validation: Validation
    model: nn.Module
    wrapped: nn.Module
    optimizer: torch.optim.Optimizer
    average: Average
    use_bfloat16: bool
    epoch: int = 0
    step: int = 0
    best: Best = field(default_factory=lambda: Best(higher=False))
    seconds: float = 0.0

    @property
    def faces_per_epoch(self) -> int:
        """Faces drawn in an epoch, a whole number of batches."""
        wanted = self.settings.train.faces_per_epoch or len(self.crops)
        batch = self.settings.train.batch_size
        return max(1, wanted // batch) * batch

    @property
    def steps(self) -> int:
        """Steps of the whole plan."""
        return self.settings.train.epochs * self.faces_per_epoch // self.settings.train.batch_size


def set_up(settings: LandmarkSettings) -> Training:
    """Read and render the faces, build network and optimizer; the seed fixes all of them."""
    device = resolve_device(settings.device)
    accelerator = make_accelerator(device)
    if settings.train.batch_size % accelerator.num_processes:
        raise ConfigError(
            f"train.batch_size {settings.train.batch_size} must be a multiple of the "
            f"{accelerator.num_processes} processes"
        )
    if settings.train.pretrained != "none":
        find_pretrained(settings.train.pretrained)  # fails before the faces are read, which may take minutes
    photos, held_out = split_photos(settings.data)
    crops = training_crops(settings, photos)
    validation = validation_faces(settings, held_out)
    seed_everything(settings.seed)
    model = make_model(settings.model)
    start_weights(model, settings)
    if accelerator.num_processes > 1:
        share_norms(model)
    model = model.to(accelerator.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = _make_optimizer(model, settings)
    wrapped, optimizer = accelerator.prepare(model, optimizer)
    average = Average(model.state_dict(), settings.train.ema)
    bfloat16 = use_bfloat16(settings.precision, accelerator.device)
    return Training(settings, accelerator, crops, validation, model, wrapped, optimizer, average, bfloat16)


def start_weights(model: nn.Module, settings: LandmarkSettings) -> None:
    """Give a new network the weights to start from, and freeze the stages that keep them.

    Raises:
        ConfigError: if the package with pretrained weights is not installed.
        CheckpointError: if the weights belong to another network.
    """
    if settings.train.pretrained != "none":
        load_pretrained(model, find_pretrained(settings.train.pretrained))
    if settings.train.start:
        _, weights, _ = load_weights(settings.train.start)
        model.load_state_dict(matching_weights(weights, model.state_dict(), settings.train.start))
    for stage in frozen_stages(model, settings.train):
        stage.requires_grad_(False)


def _make_optimizer(model: nn.Module, settings: LandmarkSettings) -> torch.optim.Optimizer:
    """Decay the weights of convolutions and linear layers, but not biases and norms."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": settings.train.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, settings.train.learning_rate, fused=True)


def save(training: Training, run: RunDirectory, *, best: bool) -> None:
    """Write a checkpoint of the epoch that has just ended: averaged weights, and all that resuming needs."""
    state = {
        "model": training.model.state_dict(),
        "optimizer": training.optimizer.state_dict(),
        "rng": capture_rng(),
        "step": training.step,
        "seconds": training.seconds,
        **training.best.state(),
    }
    meta = {"engine": "landmarks", "data": fingerprint(training.crops)}
    checkpoint = Checkpoint(training.average.values, state, meta)
    save_checkpoint(run.checkpoints, training.epoch, checkpoint, best=best)


def restore(training: Training, run: RunDirectory) -> None:
    """Restore a run's last checkpoint, so that training continues to the same bits.

    Raises:
        CheckpointError: if there is none, or it was trained on other faces or another network.
    """
    path = run.checkpoint()
    checkpoint = load_checkpoint(path)
    if checkpoint.meta.get("data") != fingerprint(training.crops):
        raise CheckpointError(f"{path}: trained on other faces; give the same data.path and renderer")
    training.epoch, training.step = checkpoint.meta["step"], checkpoint.state["step"]
    training.average.load(matching_weights(checkpoint.model, training.average.values, path))
    training.model.load_state_dict(checkpoint.state["model"])
    training.optimizer.load_state_dict(checkpoint.state["optimizer"])
    training.best = Best.of(checkpoint.state, higher=False)
    training.seconds = checkpoint.state["seconds"]
    restore_rng(checkpoint.state["rng"])
    if training.accelerator.is_main_process:
        run.rewind_metrics("epoch", training.epoch)
    logger.info("resumed after epoch %d", training.epoch)
