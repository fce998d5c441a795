"""Train a landmark network: the flat loop over batches of augmented crops."""

import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from mmtoolkit.core.checkpoint import Checkpoint, load_checkpoint, matching_weights, save_checkpoint
from mmtoolkit.core.device import (
    capture_rng,
    describe_device,
    make_accelerator,
    peak_memory,
    resolve_device,
    restore_rng,
    seed_everything,
)
from mmtoolkit.core.errors import CheckpointError, ConfigError, DivergenceError, RunError
from mmtoolkit.core.logging import logger
from mmtoolkit.core.progress import progress_bar
from mmtoolkit.core.run import BEST, RunDirectory
from mmtoolkit.landmarks.config import LandmarkSettings
from mmtoolkit.landmarks.data.augment import Batch, Crops
from mmtoolkit.landmarks.data.batches import (
    Validation,
    draw_batches,
    fingerprint,
    split_photos,
    training_crops,
    validation_faces,
)
from mmtoolkit.landmarks.data.images import from_square
from mmtoolkit.landmarks.evaluation.metrics import Evaluation, evaluate
from mmtoolkit.landmarks.load import load_weights
from mmtoolkit.landmarks.models.losses import compute_loss
from mmtoolkit.landmarks.models.networks import Output, count_operations, make_model
from mmtoolkit.landmarks.models.norms import share_norms
from mmtoolkit.landmarks.models.pretrained import find_pretrained, frozen_stages, load_pretrained
from mmtoolkit.landmarks.report import write_run_report

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True)
class TrainResult:
    """What a finished run measured.

    Attributes:
        epochs: epochs trained.
        best_epoch: the one with the lowest validation NME, whose weights are kept as `best`.
        metrics: its `nme`, `auc`, `failure_rate` on the validation faces.
        faces_per_second: training speed, augmentation included.
    """

    epochs: int
    best_epoch: int
    metrics: dict[str, float]
    faces_per_second: float


@dataclass
class Training:
    """Everything that training holds; the last six change as it goes."""

    settings: LandmarkSettings
    accelerator: "Accelerator"
    crops: Crops
    validation: Validation
    model: nn.Module
    wrapped: nn.Module
    optimizer: torch.optim.Optimizer
    average: dict[str, Tensor]
    halves: bool
    epoch: int = 0
    step: int = 0
    best_epoch: int = 0
    best_score: float = math.inf
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


def train(settings: LandmarkSettings, run: RunDirectory, *, resume: bool = False) -> TrainResult:
    """Train for the planned epochs and keep the weights that validate best.

    Args:
        settings: all settings.
        run: the run's folder; a new one is made once the data have proved usable.
        resume: continue from the run's last checkpoint, to the same bits.

    Raises:
        DataError: if a data set cannot be used; nothing has been written then.
        CheckpointError: if a run to resume has no checkpoint or was trained on other faces.
        DivergenceError: if the loss stops being finite; the last checkpoint stays.
    """
    training = set_up(settings)
    if resume:
        restore(training, run)
    if not training.accelerator.is_main_process:
        return _follow(training)
    run.start()
    with run.logging():
        logger.info("%s", _describe(training))
        fit(training, run)
        return _finish(training, run)


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
        find_pretrained(settings.train.pretrained)  # tell what is missing before the faces are read
    photos, held_out = split_photos(settings.data)
    crops = training_crops(settings, photos)
    validation = validation_faces(settings, held_out)
    seed_everything(settings.seed)
    model = make_model(settings.model)
    begin(model, settings)
    if accelerator.num_processes > 1:
        share_norms(model)
    model = model.to(accelerator.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = _make_optimizer(model, settings)
    wrapped, optimizer = accelerator.prepare(model, optimizer)
    average = {name: value.clone() for name, value in model.state_dict().items()}
    halves = computes_in_halves(settings, accelerator.device)
    return Training(settings, accelerator, crops, validation, model, wrapped, optimizer, average, halves)


def computes_in_halves(settings: LandmarkSettings, device: torch.device) -> bool:
    """Tell whether products are computed in bfloat16: as set, but not by a CPU that would only imitate it."""
    if settings.precision != "bfloat16" or device.type != "cpu":
        return settings.precision == "bfloat16"
    native = bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    if not native:
        logger.info("precision bfloat16: this CPU has no instructions for it; computing in float32")
    return native


def begin(model: nn.Module, settings: LandmarkSettings) -> None:
    """Give a new network the weights to start from, and freeze the stages that are to keep them."""
    if settings.train.pretrained != "none":
        load_pretrained(model, find_pretrained(settings.train.pretrained))
    if settings.train.start:
        start_from(model, settings.train.start)
    for stage in frozen_stages(model, settings.train.frozen):
        stage.requires_grad_(False)


def start_from(model: nn.Module, source: Path) -> None:
    """Put the weights of a run or checkpoint into a new network.

    Raises:
        CheckpointError: if there are none, or they are another network's.
    """
    _, weights, _ = load_weights(source)
    model.load_state_dict(matching_weights(weights, model.state_dict(), source))


def _make_optimizer(model: nn.Module, settings: LandmarkSettings) -> torch.optim.Optimizer:
    """Decay the weights of convolutions and linear layers, not biases and norms."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": settings.train.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, settings.train.learning_rate, fused=True)


def fit(training: Training, run: RunDirectory | None) -> None:
    """Run the epochs; with a run's folder, each leaves a line in metrics.jsonl and a checkpoint."""
    settings = training.settings.train
    last = min(settings.stop_after or settings.epochs, settings.epochs)
    with progress_bar("epochs", last, training.epoch) as advance:
        while training.epoch < last:
            record = train_epoch(training)
            if run is not None:
                note = _keep(training, run, record, final=training.epoch == last)
                advance(note)
                logger.info("epoch %d: %s, %.1f s", training.epoch, note, record["seconds"])
            training.accelerator.wait_for_everyone()


def _keep(training: Training, run: RunDirectory, record: dict[str, Any], *, final: bool) -> str:
    """Validate, write the line of metrics.jsonl and a checkpoint, and say in short how it went."""
    metrics = validate(training).metrics
    better = metrics["nme"] < training.best_score
    if better:
        training.best_epoch, training.best_score = training.epoch, metrics["nme"]
    run.log_metrics(record | metrics)
    if better or final or training.epoch % training.settings.train.checkpoint_every == 0:
        save(training, run, best=better)
    return f"loss {record['loss']:.4f}, nme {metrics['nme']:.4f}, best {training.best_score:.4f}"


def train_epoch(training: Training) -> dict[str, Any]:
    """Run one epoch and return its loss and speed."""
    start = time.perf_counter()
    training.epoch += 1
    training.wrapped.train()
    for stage in frozen_stages(training.model, training.settings.train.frozen):
        stage.eval()
    process = (training.accelerator.process_index, training.accelerator.num_processes)
    batches = draw_batches(
        training.crops, training.settings, training.epoch, training.faces_per_epoch, process
    )
    losses = [train_step(training, batch, total) for batch, total in batches]
    loss = float(training.accelerator.reduce(torch.stack(losses).mean(), "mean"))
    if not math.isfinite(loss):
        raise DivergenceError(f"epoch {training.epoch}: the loss is {loss}; lower train.learning_rate")
    seconds = time.perf_counter() - start
    training.seconds += seconds
    return {
        "epoch": training.epoch,
        "loss": loss,
        "learning_rate": training.optimizer.param_groups[0]["lr"],
        "seconds": round(seconds, 3),
        "faces_per_second": round(training.faces_per_epoch / seconds, 1),
        "peak_memory": peak_memory(training.accelerator.device),
    }


def train_step(training: Training, batch: Batch, total: float) -> Tensor:
    """Take one step and return its loss; `total` is the sum of weights over all processes."""
    settings, accelerator = training.settings, training.accelerator
    rate = learning_rate(training.step, training.steps, settings)
    for group in training.optimizer.param_groups:
        group["lr"] = rate
    device = accelerator.device
    with torch.autocast(device.type, torch.bfloat16, enabled=training.halves):
        output = Output(*training.wrapped(batch.images.to(device)))
    # gradients are averaged over the processes: scale so that their mean is that of the whole batch
    share = total / accelerator.num_processes
    loss = compute_loss(output, batch.points.to(device), batch.weights.to(device), share, settings.loss)
    training.optimizer.zero_grad(set_to_none=True)
    accelerator.backward(loss)
    torch.nn.utils.clip_grad_norm_(training.model.parameters(), settings.train.gradient_clip)
    training.optimizer.step()
    training.step += 1
    _update_average(training)
    return loss.detach()


def learning_rate(step: int, steps: int, settings: LandmarkSettings) -> float:
    """Rise linearly during the warm-up, then fall along a half cosine to zero."""
    warmup = settings.train.warmup * steps
    if step < warmup:
        return settings.train.learning_rate * (step + 1) / math.ceil(warmup)
    progress = (step - warmup) / max(1.0, steps - warmup)
    return settings.train.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


@torch.no_grad()
def _update_average(training: Training) -> None:
    """Move the averaged weights towards the current ones; faster in the beginning."""
    decay = min(training.settings.train.ema, (1 + training.step) / (10 + training.step))
    for name, value in training.model.state_dict().items():
        if value.is_floating_point():
            training.average[name].lerp_(value, 1 - decay)
        else:
            training.average[name].copy_(value)


def validate(training: Training) -> Evaluation:
    """Score the averaged weights on the validation faces through their own boxes."""
    kept = {name: value.clone() for name, value in training.model.state_dict().items()}
    training.model.load_state_dict(training.average)
    training.model.eval()
    validation, device = training.validation, training.accelerator.device
    shares = []
    with torch.inference_mode():
        for block in torch.from_numpy(validation.crops).split(256):
            shares.append(training.model(block.to(device).permute(0, 3, 1, 2).float()).points.cpu().numpy())
    training.model.load_state_dict(kept)
    points = from_square(np.concatenate(shares), validation.squares)
    names = [truth.name for truth in validation.truths]
    return evaluate(validation.truths, dict(zip(names, points, strict=True)))


def save(training: Training, run: RunDirectory, *, best: bool) -> None:
    """Write a checkpoint of the epoch that has just ended: averaged weights to predict, all to go on."""
    state = {
        "model": training.model.state_dict(),
        "optimizer": training.optimizer.state_dict(),
        "rng": capture_rng(),
        "step": training.step,
        "best_epoch": training.best_epoch,
        "best_score": training.best_score,
        "seconds": training.seconds,
    }
    meta = {"engine": "landmarks", "data": fingerprint(training.crops)}
    save_checkpoint(run.checkpoints, training.epoch, Checkpoint(training.average, state, meta), best=best)


def restore(training: Training, run: RunDirectory) -> None:
    """Put a run's last checkpoint back, as if it had never stopped.

    Raises:
        CheckpointError: if there is none, or it was trained on other faces or another network.
    """
    path = run.checkpoint()
    checkpoint = load_checkpoint(path)
    if checkpoint.meta.get("data") != fingerprint(training.crops):
        raise CheckpointError(f"{path}: trained on other faces; give the same data.path and renderer")
    training.epoch, training.step = checkpoint.meta["step"], checkpoint.state["step"]
    average = matching_weights(checkpoint.model, training.average, path)
    for name, value in average.items():
        training.average[name].copy_(value)
    training.model.load_state_dict(checkpoint.state["model"])
    training.optimizer.load_state_dict(checkpoint.state["optimizer"])
    training.best_epoch = checkpoint.state["best_epoch"]
    training.best_score = checkpoint.state["best_score"]
    training.seconds = checkpoint.state["seconds"]
    restore_rng(checkpoint.state["rng"])
    if training.accelerator.is_main_process:
        run.rewind_metrics("epoch", training.epoch)
    logger.info("resumed after epoch %d", training.epoch)


def _follow(training: Training) -> TrainResult:
    """Train along with the main process, which writes everything."""
    fit(training, None)
    return TrainResult(training.epoch, 0, {}, 0.0)


def _finish(training: Training, run: RunDirectory) -> TrainResult:
    """Score the best epoch once more and write what came out."""
    if not training.best_epoch:
        raise RunError("no epoch was trained; raise train.epochs")
    path = run.checkpoint(BEST)
    training.average = load_checkpoint(path, state=False).model
    evaluation = validate(training)
    speed = training.epoch * training.faces_per_epoch / max(1e-9, training.seconds)
    result = TrainResult(training.epoch, training.best_epoch, evaluation.metrics, round(speed, 1))
    run.write_results(asdict(result) | {"device": describe_device(training.accelerator.device)})
    write_run_report(run, evaluation, _describe(training), training.best_epoch)
    return result


def _describe(training: Training) -> str:
    photos = int((~training.crops.rendered).sum())
    return (
        f"{photos:,} photographs and {len(training.crops) - photos:,} rendered faces, "
        f"{len(training.validation.truths):,} to validate on; {training.steps:,} steps "
        f"on {describe_device(training.accelerator.device)}"
    )


def describe_work(settings: LandmarkSettings) -> dict[str, int | str]:
    """Check settings and data without training or rendering, and tell the sizes of the work.

    Raises:
        DataError: if a data set cannot be used.
        ConfigError: if the weights to start from are not there; CheckpointError if they are another's.
    """
    photos, held_out = split_photos(settings.data)
    model = make_model(settings.model)
    begin(model, settings)
    faces = settings.train.faces_per_epoch or len(photos) + settings.data.rendered
    return {
        "photographs": len(photos),
        "rendered": settings.data.rendered,
        "validation": len(held_out) or settings.data.rendered_validation,
        "parameters": sum(p.numel() for p in model.parameters()),
        "multiplications": count_operations(model, settings.model.size),
        "steps": settings.train.epochs * max(1, faces // settings.train.batch_size),
        "device": describe_device(resolve_device(settings.device)),
    }
