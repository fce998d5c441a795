"""What training holds, made from the settings, and its checkpoints."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from mmtoolkit.core.checkpoint import Checkpoint, load_checkpoint, matching_weights, save_checkpoint
from mmtoolkit.core.device import make_accelerator, resolve_device, seed_everything
from mmtoolkit.core.errors import CheckpointError, ConfigError
from mmtoolkit.core.extras import need
from mmtoolkit.core.files import fingerprint
from mmtoolkit.core.logging import logger
from mmtoolkit.core.run import RunDirectory
from mmtoolkit.core.training import Average
from mmtoolkit.distill.config import DistillSettings
from mmtoolkit.distill.data.cached import CachedExamples, is_cache, open_cache
from mmtoolkit.distill.load import load_pixel_base
from mmtoolkit.distill.models.denoiser import Denoiser, Examples, move
from mmtoolkit.distill.training.steps import parts_of
from mmtoolkit.distill.training.targets import Targets

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass
class Training:
    """Everything that training holds; `step` counts the finished steps."""

    settings: DistillSettings
    examples: Examples
    denoiser: Denoiser
    accelerator: "Accelerator"
    targets: Targets
    parameters: dict[str, nn.Parameter]
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    average: Average
    meta: dict[str, Any]
    step: int = 0
    losses: list[float] = field(default_factory=list)
    gaps: dict[str, float] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        return self.targets.grid.device


def set_up(settings: DistillSettings, run: RunDirectory | None) -> Training:
    """Load the base, the examples and the optimizer; the seed fixes all random parts.

    Args:
        settings: all settings.
        run: where a latent family's cache goes; without it, `data.path` must be a cache.
    """
    accelerator = make_accelerator(resolve_device(settings.device))
    seed_everything(settings.seed)
    denoiser: Denoiser
    if settings.model.family == "pixel":
        denoiser, examples, meta = _load_pixel(settings, accelerator.device)
    else:
        denoiser, examples, meta = _load_latent(settings, run, accelerator)
    parameters = denoiser.trainable()
    facts = {"model": settings.model.model_dump(), "targets": settings.targets.model_dump()}
    training = Training(
        settings=settings,
        examples=examples,
        denoiser=denoiser,
        accelerator=accelerator,
        targets=Targets.from_settings(settings.targets, accelerator.device),
        parameters=parameters,
        optimizer=_optimizer(settings, list(parameters.values())),
        scaler=torch.amp.GradScaler(accelerator.device.type, enabled=settings.precision == "float16"),
        average=Average(parameters, settings.train.ema),
        meta={"engine": "distill train", "facts": facts, "texts": texts_of(examples), **meta},
    )
    parts_of(settings.train.batch_size, settings.train.accumulation, accelerator)
    denoiser.network = accelerator.prepare_model(denoiser.network)
    return training


def _load_pixel(settings: DistillSettings, device: torch.device) -> tuple[Denoiser, Examples, dict[str, Any]]:
    denoiser, examples = load_pixel_base(settings, device)
    denoiser.adapt(settings.model)
    return denoiser, examples, {"spec": denoiser.spec.to_json()}


def _load_latent(
    settings: DistillSettings, run: RunDirectory | None, accelerator: "Accelerator"
) -> tuple[Denoiser, Examples, dict[str, Any]]:
    from mmtoolkit.distill.cache import picture_size
    from mmtoolkit.distill.models.families import Source, load_latent
    from mmtoolkit.distill.training.memory import check_memory, expected_memory

    path, device = settings.data.path, accelerator.device
    examples = open_cache(path, settings) if path is not None and is_cache(path) else None
    source = Source.open(settings.model.base, settings.model.family, settings.model.layout)
    size = examples.facts["size"] if examples else picture_size(settings, source)
    rows = settings.train.batch_size // (settings.train.accumulation * accelerator.num_processes)
    memory = expected_memory(settings, source, size, max(1, rows))
    listed = ", ".join(f"{name} {value / 1e9:.2f}" for name, value in memory.items())
    logger.info("expected memory %.2f GB: %s", sum(memory.values()) / 1e9, listed)
    check_memory(memory, device)
    examples = examples or _cache_in(run, settings, accelerator)
    denoiser = load_latent(settings, size, move(examples.no_prompt, device), device)
    denoiser.adapt(settings.model)
    return denoiser, examples, {}


def _cache_in(
    run: RunDirectory | None, settings: DistillSettings, accelerator: "Accelerator"
) -> CachedExamples:
    """Encode the data into the folder of a run, which a stopped command can then resume."""
    from mmtoolkit.distill.cache import checked_pictures, write_cache

    if run is None:
        raise ConfigError(f"data.path: {settings.data.path} is no cache; make one with `mmtk distill cache`")
    with accelerator.main_process_first():  # the others find its cache
        pictures = checked_pictures(settings, run.path / "cache")
        if accelerator.is_main_process:
            run.start()
        return write_cache(settings, run.path / "cache", pictures)


def _optimizer(settings: DistillSettings, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    train = settings.train
    if train.optimizer == "adamw":
        fused = parameters[0].device.type in ("cpu", "cuda")
        return torch.optim.AdamW(
            parameters, train.learning_rate, weight_decay=train.weight_decay, fused=fused
        )
    library = need("bitsandbytes.optim", "adam8bit", "train.optimizer adamw8bit")
    optimizer: torch.optim.Optimizer = library.AdamW8bit(
        parameters, train.learning_rate, weight_decay=train.weight_decay
    )
    return optimizer


def save(training: Training, run: RunDirectory) -> None:
    """Write a checkpoint: the averaged weights as the model, all else as state."""
    state = {
        "weights": {name: value.detach() for name, value in training.parameters.items()},
        "optimizer": training.optimizer.state_dict(),
        "scaler": training.scaler.state_dict(),
        "losses": training.losses[-100:],
        "gaps": training.gaps,
    }
    checkpoint = Checkpoint(training.average.values, state, training.meta)
    save_checkpoint(run.checkpoints, training.step, checkpoint)


def texts_of(examples: Examples) -> str:
    """Return a fingerprint of the texts of all examples, in order."""
    return fingerprint(examples.texts(torch.arange(len(examples))))


def check_data(stored: Checkpoint, examples: Examples, path: Path) -> None:
    """Refuse to continue training with other data than a checkpoint saw, if it states them.

    Raises:
        CheckpointError: if its examples had other texts.
    """
    if stored.meta.get("texts") not in (None, texts_of(examples)):
        raise CheckpointError(f"{path}: trained on other pictures or texts; give its own data with `data`")


@torch.no_grad()
def restore(training: Training, run: RunDirectory) -> None:
    """Put the last checkpoint back, as if training had never stopped.

    Args:
        training: of the same settings.
        run: whose checkpoint it is.

    Raises:
        CheckpointError: if there is none, or it belongs to another base or other data.
    """
    path = run.checkpoint()
    stored = load_checkpoint(path)
    check_data(stored, training.examples, path)
    weights = matching_weights(stored.state["weights"], dict(training.parameters), path)
    for name, parameter in training.parameters.items():
        parameter.copy_(weights[name])
    training.average.load(stored.model)
    training.optimizer.load_state_dict(stored.state["optimizer"])
    training.scaler.load_state_dict(stored.state["scaler"])
    training.losses, training.gaps = list(stored.state["losses"]), dict(stored.state["gaps"])
    training.step = stored.meta["step"]
