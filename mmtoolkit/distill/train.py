"""Distil a student: the same step for LCM, PCM, TCD and TDD, for every family of models."""

import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from mmtoolkit.core.device import describe_device, peak_memory, resolve_device
from mmtoolkit.core.logging import logger
from mmtoolkit.core.progress import progress_bar
from mmtoolkit.core.run import RunDirectory
from mmtoolkit.distill.config import DistillSettings
from mmtoolkit.distill.models.denoiser import Condition, autocast, move, swapped
from mmtoolkit.distill.models.losses import Draw, distillation_loss
from mmtoolkit.distill.report import write_train_report
from mmtoolkit.distill.sampling.generate import save_grid, student_samples, teacher_samples
from mmtoolkit.distill.training.setup import Training, restore, save, set_up
from mmtoolkit.distill.training.steps import (
    batch_rows,
    parts_of,
    rate_factor,
    set_rate,
    step_generator,
    take_step,
    unwrapped,
)

GRID_STEPS = (2, 4, 8)
GRID_COLUMNS = 8


@dataclass(frozen=True)
class TrainResult:
    """What a finished student measured.

    Attributes:
        steps: optimizer steps.
        loss: mean of the last 100 steps.
        gaps: mean squared distance of the samples to the teacher's 50-step ones, as `gap@4`.
        seconds: of training, in this process.
        parameters: numbers that train.
    """

    steps: int
    loss: float
    gaps: dict[str, float]
    seconds: float
    parameters: int


def train(settings: DistillSettings, run: RunDirectory, *, resume: bool = False) -> TrainResult:
    """Distil the student that the settings describe.

    Args:
        settings: all settings; `data`, `model`, `targets` and `train` are used.
        run: the run's folder; made once data and base have proved usable. The latents of a latent family
            are cached in it, unless `data.path` is a cache already.
        resume: continue from the run's last checkpoint, to the same bits; from the beginning, or from the
            unfinished cache, where there is none yet.

    Raises:
        DataError: if the data cannot be used.
        CheckpointError: if the base cannot be loaded, or the checkpoint is of another one or other data.
        DivergenceError: if the loss stops being finite; the last checkpoint stays.
    """
    training = set_up(settings, run)
    if resume and run.checkpoints.exists():
        restore(training, run, same_data=True)
    if training.accelerator.is_main_process:
        run.start()
        if resume:
            run.rewind_metrics("step", training.step)
            logger.info("resumed after step %d", training.step)
    training.accelerator.wait_for_everyone()
    with run.logging():
        logger.info("%s", describe(training))
        logger.info("%s", estimate(training))
        start = time.perf_counter()
        fit(training, run)
        recent = training.losses[-100:]
        result = TrainResult(
            steps=training.step,
            loss=sum(recent) / max(1, len(recent)),
            gaps=training.gaps,
            seconds=round(time.perf_counter() - start, 1),
            parameters=sum(value.numel() for value in training.parameters.values()),
        )
        if training.accelerator.is_main_process:
            run.write_results(asdict(result) | {"device": describe_device(training.device)})
            write_train_report(run, training.settings, result)
            if settings.model.family == "pixel":
                _write_pixel(training, run)
    return result


def _write_pixel(training: Training, run: RunDirectory) -> None:
    """Write a pixel student as one file, half the size of its checkpoint."""
    from mmtoolkit.distill.models.pixel import PixelSpec, save_pixel

    spec = PixelSpec.from_json(training.meta["spec"])
    save_pixel(run.path / "student.safetensors", training.average.values, spec, training.meta["facts"])


def fit(training: Training, run: RunDirectory) -> None:
    """Run the steps that are left; every tenth leaves a line in metrics.jsonl."""
    settings, main = training.settings.train, training.accelerator.is_main_process
    references = reference_samples(training) if settings.sample_every and main else None
    start, first = time.perf_counter(), training.step
    with progress_bar("training", settings.steps, training.step) as advance:
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
            if main and (last or training.step % settings.checkpoint_every == 0):
                save(training, run)
            if record:
                shown = ", ".join(f"{name} {value:.4f}" for name, value in record.items())
                logger.info("step %d: loss %.4f, %s", training.step, loss, shown)
            advance(f"loss {loss:.4f}")


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
    factor = rate_factor(training.step, settings.steps, warmup=settings.warmup, cooldown=settings.cooldown)
    set_rate(training.optimizer, settings.learning_rate * factor)
    training.optimizer.zero_grad(set_to_none=True)
    loss = backward(training, rows, draw(training))
    value = float(training.accelerator.reduce(loss, "mean"))
    training.step += 1
    norm = take_step(
        training.optimizer,
        training.scaler,
        training.parameters.values(),
        settings.clip,
        value,
        training.step,
        "train.learning_rate",
    )
    training.average.update(training.parameters, training.step)
    return value, norm


def backward(training: Training, rows: Tensor, drawn: Draw) -> Tensor:
    """Add up the gradients of this process's rows, part by part; returns their mean loss."""
    settings, accelerator = training.settings, training.accelerator
    parts = parts_of(settings.train.batch_size, settings.train.accumulation, accelerator)
    total = torch.zeros((), device=training.device)
    for number, part in enumerate(parts):
        clean, condition = training.examples.batch(rows[part])
        clean, condition = clean.to(training.device), move(condition, training.device)
        wait = nullcontext() if number + 1 == len(parts) else accelerator.no_sync(training.denoiser.network)
        with wait, autocast(training.device, settings.precision):
            loss = _loss(training, clean, condition, drawn.part(part)) / len(parts)
            training.scaler.scale(loss).backward()
        total += loss.detach()
    return total


def _loss(training: Training, clean: Tensor, condition: Condition, drawn: Draw) -> Tensor:
    """Compute the loss of some rows as the rule wants it."""
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
    """Draw the averaged student at 2, 4 and 8 steps under the teacher; returns its distances to it."""
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


def describe(training: Training) -> str:
    """Say in a line what is about to be trained."""
    settings, count = training.settings, sum(value.numel() for value in training.parameters.values())
    kind = f"LoRA of rank {settings.model.rank}" if settings.model.adapter == "lora" else "all weights"
    return (
        f"{settings.model.family} {settings.model.base}: {kind}, {count:,} numbers train; "
        f"{len(training.examples):,} examples; {settings.targets.rule}, w {settings.targets.guidance:g}, "
        f"rho {settings.targets.drop:g}; on {describe_device(training.device)}"
    )


def measure_step(training: Training) -> float:
    """Time one step's gradients, which are then thrown away, in seconds."""
    rows = batch_rows(len(training.examples), training.settings.train.batch_size, 0, 0)
    seconds = 0.0
    for _ in range(2):  # the first one also pays for what happens once
        start = time.perf_counter()
        backward(training, rows, draw(training)).item()
        seconds = time.perf_counter() - start
    training.optimizer.zero_grad(set_to_none=True)
    return seconds


def estimate(training: Training) -> str:
    """Say how long a step takes, how long the rest will take, and how much memory a step held."""
    seconds = measure_step(training)
    left = seconds * (training.settings.train.steps - training.step)
    memory = peak_memory(training.device) / 2**30
    return f"a step takes {seconds:.2f} s, the rest about {left / 60:.1f} min; peak memory {memory:.2f} GiB"


def describe_work(settings: DistillSettings) -> dict[str, int | float | str]:
    """Check settings, base and data without training, and tell the sizes of the work.

    Raises:
        DataError: if the data cannot be used.
        CheckpointError: if the base cannot be loaded.
    """
    if settings.model.family != "pixel" and not _cached(settings):
        return _describe_uncached(settings)
    training = set_up(settings, None)
    seconds = measure_step(training)
    return {
        "family": settings.model.family,
        "base": settings.model.base,
        "rule": settings.targets.rule,
        "examples": len(training.examples),
        "parameters": sum(value.numel() for value in training.parameters.values()),
        "steps": settings.train.steps,
        "seconds_step": round(seconds, 3),
        "minutes": round(seconds * settings.train.steps / 60, 1),
        "peak_memory_gib": round(peak_memory(training.device) / 2**30, 2),
        "device": describe_device(training.device),
    }


def _cached(settings: DistillSettings) -> bool:
    from mmtoolkit.distill.cache import is_cache

    return is_cache(settings.data.path)


def _describe_uncached(settings: DistillSettings) -> dict[str, int | float | str]:
    """Tell the sizes of what will be cached and trained; a step cannot be timed before."""
    from mmtoolkit.distill import cache
    from mmtoolkit.distill.models.families import Source
    from mmtoolkit.distill.training.memory import expected_memory, free_memory

    facts = cache.describe_work(settings)
    source = Source.open(settings.model.base, settings.model.family, settings.model.layout)
    rows = settings.train.batch_size // settings.train.accumulation
    memory = expected_memory(settings, source, int(facts["size"]), rows)
    free = free_memory(resolve_device(settings.device))
    told = {} if free is None else {"free_memory_gb": round(free / 1e9, 3)}
    return {
        "family": settings.model.family,
        "base": settings.model.base,
        "rule": settings.targets.rule,
        "examples": facts["pictures"],
        "prompts": facts["prompts"],
        "size": facts["size"],
        "parameters": memory["trained weights"] // 4,
        "steps": settings.train.steps,
        "expected_memory_gb": round(sum(memory.values()) / 1e9, 3),
        **told,
    }
