"""The loop of the student: the same step for LCM, PCM, TCD and TDD, for every family of models."""

import time
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from mmtoolkit.core.device import peak_memory
from mmtoolkit.core.logging import logger
from mmtoolkit.core.progress import progress_bar
from mmtoolkit.core.run import RunDirectory
from mmtoolkit.core.training import check_finite, linear_rate, set_rate, stop_signals
from mmtoolkit.distill.models.denoiser import Condition, autocast, move, swapped
from mmtoolkit.distill.models.losses import Draw, distillation_loss
from mmtoolkit.distill.sampling.generate import save_grid, student_samples, teacher_samples
from mmtoolkit.distill.training.state import Training, save
from mmtoolkit.distill.training.steps import (
    batch_rows,
    learning_step,
    parts_of,
    step_generator,
    unwrapped,
)

GRID_STEPS = (2, 4, 8)
GRID_COLUMNS = 8


def fit(training: Training, run: RunDirectory) -> None:
    """Run the remaining steps; every tenth writes a line of metrics.jsonl."""
    settings, main = training.settings.train, training.accelerator.is_main_process
    references = reference_samples(training) if settings.sample_every and main else None
    start, first = time.perf_counter(), training.step
    progress = progress_bar("training", settings.steps, training.step)
    with stop_signals() as stop, progress as advance:
        while training.step < settings.steps:
            loss, norm = train_step(training)
            training.losses.append(loss)
            last = training.step == settings.steps
            record: dict[str, Any] = {}
            if references is not None and (last or training.step % settings.sample_every == 0):
                training.gaps = record = draw_samples(training, run, *references)
            if main and (record or last or training.step % 10 == 0):
                recent = training.losses[-10:]
                seconds = (time.perf_counter() - start) / (training.step - first)
                run.log_metrics(
                    {"step": training.step, "loss": sum(recent) / len(recent), "gradient_norm": norm}
                    | record
                    | {"seconds_step": round(seconds, 4), "peak_memory": peak_memory(training.device)}
                )
            if main and (last or stop or training.step % settings.checkpoint_every == 0):
                save(training, run)
            if record:
                shown = ", ".join(f"{name} {value:.4f}" for name, value in record.items())
                logger.info("step %d: loss %.4f, %s", training.step, loss, shown)
            advance(f"loss {loss:.4f}")
            stop.check(f"step {training.step}", run.path)


def draw(training: Training) -> Draw:
    """Draw the timesteps, targets, noise and dropped rows of the whole batch of a step."""
    settings, device = training.settings, training.device
    rows = settings.train.batch_size
    generator = step_generator(settings.seed, training.step, device)
    n = training.targets.draw_starts(rows, generator)
    return Draw(
        start=training.targets.grid[n],
        before=training.targets.before[n],
        target=training.targets.draw(n, generator),
        dropped=torch.rand(rows, generator=generator, device=device) < settings.targets.drop,
        noise=torch.randn((rows, *training.denoiser.shape), generator=generator, device=device),
    )


def train_step(training: Training) -> tuple[float, float]:
    """Learn from one batch; returns the loss over all processes and the gradient's norm."""
    settings = training.settings.train
    rows = batch_rows(len(training.examples), settings.batch_size, training.settings.seed, training.step)
    factor = linear_rate(training.step, settings.steps, warmup=settings.warmup, cooldown=settings.cooldown)
    set_rate(training.optimizer, settings.learning_rate * factor)
    training.optimizer.zero_grad(set_to_none=True)
    loss = backward(training, rows, draw(training))
    training.step += 1
    parameters = training.parameters.values()
    norm = learning_step(training.optimizer, training.scaler, parameters, settings.clip)
    training.average.update(training.parameters, training.step)
    return loss, norm


def backward(training: Training, rows: Tensor, drawn: Draw) -> float:
    """Add up the gradients of this process's rows, part by part; returns the mean loss over all processes.

    Raises:
        DivergenceError: before a backward pass, if a part's loss is not finite in any process.
    """
    settings, accelerator = training.settings, training.accelerator
    parts = parts_of(settings.train.batch_size, settings.train.accumulation, accelerator)
    total = torch.zeros((), device=training.device)
    for number, part in enumerate(parts):
        clean, condition = training.examples.batch(rows[part])
        clean, condition = clean.to(training.device), move(condition, training.device)
        wait = nullcontext() if number + 1 == len(parts) else accelerator.no_sync(training.denoiser.network)
        with wait, autocast(training.device, settings.precision):
            loss = _loss(training, clean, condition, drawn.part(part)) / len(parts)
            # all processes reduce, so that all stop: one alone would leave the others waiting in backward
            shared = accelerator.reduce(loss.detach(), "mean")
            check_finite(float(shared), f"step {training.step + 1}", "train.learning_rate")
            training.scaler.scale(loss).backward()
        total += shared
    return float(total)


def _loss(training: Training, clean: Tensor, condition: Condition, drawn: Draw) -> Tensor:
    """Return the loss of some rows by the rule of the settings."""
    targets = training.settings.targets
    lcm = targets.rule == "lcm"
    averaged = lcm or targets.averaged
    return distillation_loss(
        training.denoiser,
        clean,
        condition,
        drawn,
        guidance=targets.guidance,
        huber=targets.huber,
        boundary=lcm,
        target_weights=swapped(training.parameters, training.average.values) if averaged else None,
    )


def reference_samples(training: Training) -> tuple[Condition, Tensor, Tensor]:
    """Draw the teacher's many-step samples of a few examples: conditions, noise and samples."""
    device, denoiser = training.device, training.denoiser
    columns = min(GRID_COLUMNS, len(training.examples))
    rows = torch.linspace(0, len(training.examples) - 1, columns).long()
    condition = move(training.examples.batch(rows)[1], device)
    generator = step_generator(training.settings.seed, 0, device)
    noise = torch.randn((columns, *denoiser.shape), generator=generator, device=device)
    with (
        unwrapped(denoiser, training.accelerator),
        denoiser.teacher(),
        autocast(device, training.settings.precision),
    ):
        guidance = 1 + training.settings.targets.guidance
        samples = teacher_samples(denoiser, condition, noise, guidance=guidance)
    return condition, noise, samples


def draw_samples(
    training: Training, run: RunDirectory, condition: Condition, noise: Tensor, reference: Tensor
) -> dict[str, float]:
    """Draw the averaged student at 2, 4 and 8 steps, below the teacher; returns the gaps."""
    gaps, rows = {}, [reference]
    grid = training.settings.targets.training_steps
    context = swapped(training.parameters, training.average.values)
    precision = autocast(training.device, training.settings.precision)
    with unwrapped(training.denoiser, training.accelerator), context, precision:
        for steps in (steps for steps in GRID_STEPS if steps <= grid):
            samples = student_samples(training.denoiser, condition, noise, steps=steps, training_steps=grid)
            gaps[f"gap@{steps}"] = float((samples - reference).square().mean())
            rows.append(samples)
        with torch.no_grad():
            pictures = training.denoiser.decode(torch.cat(rows))
    save_grid(pictures, len(noise), run.path / "samples" / f"{training.step:06d}.png")
    return gaps
