"""Distil a student: the same step for LCM, PCM, TCD and TDD, for every family of models."""

import time
from pathlib import Path

from mmtoolkit.core.device import describe_device, peak_memory, resolve_device
from mmtoolkit.core.logging import logger
from mmtoolkit.core.report import write_results
from mmtoolkit.core.run import RunDirectory
from mmtoolkit.distill.config import DistillSettings
from mmtoolkit.distill.data.cached import is_cache
from mmtoolkit.distill.report import TrainResult, write_train_report
from mmtoolkit.distill.training.loop import fit, measure_step
from mmtoolkit.distill.training.state import Training, restore, set_up


def train(settings: DistillSettings, run: RunDirectory | Path, *, resume: bool = False) -> TrainResult:
    """Distil the student that the settings describe.

    Args:
        settings: all settings; `data`, `model`, `targets` and `train` are used.
        run: the run, or a new folder for it; created once data and base are known to be usable. It gets the
            latents of a latent family, unless `data.path` is a cache.
        resume: continue from the run's last checkpoint, to the same bits; without a checkpoint from the
            unfinished cache or from the beginning.

    Raises:
        DataError: if the data cannot be used.
        CheckpointError: if the base cannot be loaded, or the checkpoint is of another base or other data.
        DivergenceError: if the loss stops being finite; the last checkpoint stays.
    """
    run = RunDirectory.of(run, settings)
    training = set_up(settings, run)
    if resume and run.checkpoints.exists():
        restore(training, run)
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
            write_results(run, result, training.device)
            write_train_report(run, training.settings, result)
            if settings.model.family == "pixel":
                _write_pixel(training, run)
    return result


def _write_pixel(training: Training, run: RunDirectory) -> None:
    """Write a pixel student as one file, half the size of its checkpoint."""
    from mmtoolkit.distill.models.pixel import PixelSpec, save_pixel

    spec = PixelSpec.from_json(training.meta["spec"])
    save_pixel(run.path / "student.safetensors", training.average.values, spec, training.meta["facts"])


def describe(training: Training) -> str:
    """Describe in one line what is trained."""
    settings, count = training.settings, sum(value.numel() for value in training.parameters.values())
    kind = f"LoRA of rank {settings.model.rank}" if settings.model.adapter == "lora" else "all weights"
    return (
        f"{settings.model.family} {settings.model.base}: {kind}, {count:,} numbers train; "
        f"{len(training.examples):,} examples; {settings.targets.rule}, w {settings.targets.guidance:g}, "
        f"rho {settings.targets.drop:g}; on {describe_device(training.device)}"
    )


def estimate(training: Training) -> str:
    """Report the time of a step, the remaining time, and the memory of a step."""
    seconds = measure_step(training)
    left = seconds * (training.settings.train.steps - training.step)
    memory = peak_memory(training.device) / 2**30
    return f"a step takes {seconds:.2f} s, the rest about {left / 60:.1f} min; peak memory {memory:.2f} GiB"


def describe_work(settings: DistillSettings) -> dict[str, int | float | str]:
    """Check settings, base and data without training, and return the sizes of the work.

    Raises:
        DataError: if the data cannot be used.
        CheckpointError: if the base cannot be loaded.
    """
    if settings.model.family != "pixel" and not is_cache(settings.data.path):
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


def _describe_uncached(settings: DistillSettings) -> dict[str, int | float | str]:
    """Return the sizes of what will be cached and trained; a step cannot be timed before."""
    from mmtoolkit.distill import cache
    from mmtoolkit.distill.models.families import Source
    from mmtoolkit.distill.training.memory import expected_memory, free_memory

    facts = cache.describe_work(settings)
    source = Source.open(settings.model.base, settings.model.family, settings.model.layout)
    rows = settings.train.batch_size // settings.train.accumulation
    memory = expected_memory(settings, source, int(facts["size"]), rows)
    free = free_memory(resolve_device(settings.device))
    known = {} if free is None else {"free_memory_gb": round(free / 1e9, 3)}
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
        **known,
    }
