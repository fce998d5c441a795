"""The training loop over batches of augmented crops."""

import signal
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmtoolkit.core.device import peak_memory
from mmtoolkit.core.logging import logger
from mmtoolkit.core.progress import progress_bar
from mmtoolkit.core.run import RunDirectory
from mmtoolkit.core.training import StopRequest, check_finite, cosine_rate, set_rate, stop_signals
from mmtoolkit.landmarks.data.augment import Batch
from mmtoolkit.landmarks.data.batches import draw_batches
from mmtoolkit.landmarks.data.images import from_square
from mmtoolkit.landmarks.evaluation.metrics import Evaluation, score_faces
from mmtoolkit.landmarks.models.losses import compute_loss
from mmtoolkit.landmarks.models.networks import Output
from mmtoolkit.landmarks.models.pretrained import frozen_stages
from mmtoolkit.landmarks.training.state import Training, save


def fit(training: Training, run: RunDirectory | None) -> None:
    """Run the epochs; with a run's folder, each leaves a line in metrics.jsonl and a checkpoint.

    Raises:
        DivergenceError: if the loss stops being finite.
        StoppedError: if a signal ends the run.
    """
    settings = training.settings.train
    last = min(settings.stop_after or settings.epochs, settings.epochs)
    with stop_signals() as stop, progress_bar("epochs", last, training.epoch) as advance:
        while training.epoch < last:
            record = train_epoch(training)
            stopping = _any_stop(training, stop)
            if run is not None:
                note = _keep(training, run, record, checkpoint=stopping or training.epoch == last)
                advance(note)
                logger.info("epoch %d: %s, %.1f s", training.epoch, note, record["seconds"])
            training.accelerator.wait_for_everyone()
            if training.epoch < last:
                stop.check(f"epoch {training.epoch}", run.path if run else None)


def _any_stop(training: Training, stop: StopRequest) -> bool:
    """Return whether a process was asked to stop, and make all processes stop then.

    A process that ended alone would leave the others waiting for its gradients.
    """
    device = training.accelerator.device
    asked = training.accelerator.reduce(torch.tensor(float(bool(stop)), device=device), "sum")
    if float(asked) and not stop:
        stop.received = signal.SIGTERM
    return bool(stop)


def _keep(training: Training, run: RunDirectory, record: dict[str, Any], *, checkpoint: bool) -> str:
    """Validate, write the line of metrics.jsonl and a checkpoint, and return a short summary."""
    metrics = validate(training).metrics
    check_finite(metrics["nme"], f"epoch {training.epoch}, validation", "train.learning_rate")
    better = training.best.update(training.epoch, metrics["nme"])
    run.log_metrics(record | metrics)
    if better or checkpoint or training.epoch % training.settings.train.checkpoint_every == 0:
        save(training, run, best=better)
    return f"loss {record['loss']:.4f}, nme {metrics['nme']:.4f}, best {training.best.score:.4f}"


def train_epoch(training: Training) -> dict[str, Any]:
    """Run one epoch and return its loss and speed."""
    start = time.perf_counter()
    training.epoch += 1
    training.wrapped.train()
    for stage in frozen_stages(training.model, training.settings.train):
        stage.eval()  # or its batch norms would still move
    process = (training.accelerator.process_index, training.accelerator.num_processes)
    batches = draw_batches(
        training.crops, training.settings, training.epoch, training.faces_per_epoch, process
    )
    losses = [train_step(training, batch, total) for batch, total in batches]
    seconds = time.perf_counter() - start
    training.seconds += seconds
    return {
        "epoch": training.epoch,
        "loss": float(torch.stack(losses).mean()),
        "learning_rate": training.optimizer.param_groups[0]["lr"],
        "seconds": round(seconds, 3),
        "faces_per_second": round(training.faces_per_epoch / seconds, 1),
        "peak_memory": peak_memory(training.accelerator.device),
    }


def train_step(training: Training, batch: Batch, total: float) -> Tensor:
    """Take one step and return its loss over all processes.

    Args:
        training: the state, which is changed.
        batch: this process's share of the batch.
        total: sum of the weights of all points over all processes.

    Raises:
        DivergenceError: if the loss is not finite; no weight has changed then.
    """
    settings, accelerator = training.settings, training.accelerator
    factor = cosine_rate(training.step, training.steps, warmup=settings.train.warmup)
    set_rate(training.optimizer, settings.train.learning_rate * factor)
    device = accelerator.device
    with torch.autocast(device.type, torch.bfloat16, enabled=training.use_bfloat16):
        output = Output(*training.wrapped(batch.images.to(device)))
    # gradients are averaged over the processes: scaled so that their mean is that of the whole batch
    share = total / accelerator.num_processes
    loss = compute_loss(output, batch.points.to(device), batch.weights.to(device), share, settings.loss)
    mean: Tensor = accelerator.reduce(loss.detach(), "mean")
    check_finite(float(mean), f"step {training.step + 1}", "train.learning_rate")
    training.optimizer.zero_grad(set_to_none=True)
    accelerator.backward(loss)
    torch.nn.utils.clip_grad_norm_(training.model.parameters(), settings.train.gradient_clip)
    training.optimizer.step()
    training.step += 1
    training.average.update(training.model.state_dict(), training.step)
    return mean


def validate(training: Training) -> Evaluation:
    """Score the averaged weights on the validation faces through their own boxes."""
    weights = {name: value.clone() for name, value in training.model.state_dict().items()}
    training.model.load_state_dict(training.average.values)
    training.model.eval()
    validation, device = training.validation, training.accelerator.device
    shares = []
    with torch.inference_mode():
        for block in torch.from_numpy(validation.crops).split(256):
            shares.append(training.model(block.to(device).permute(0, 3, 1, 2).float()).points.cpu().numpy())
    training.model.load_state_dict(weights)
    points = from_square(np.concatenate(shares), validation.squares)
    names = [truth.name for truth in validation.truths]
    return score_faces(validation.truths, dict(zip(names, points, strict=True)))
