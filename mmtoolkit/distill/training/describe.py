"""What a training will cost: sizes, seconds and memory, for the log and for dry runs."""

import time

from mmtoolkit.core.device import describe_device, peak_memory, resolve_device
from mmtoolkit.distill import cache
from mmtoolkit.distill.config import DistillSettings
from mmtoolkit.distill.data.cached import is_cache
from mmtoolkit.distill.training.loop import backward, draw
from mmtoolkit.distill.training.state import Training, set_up
from mmtoolkit.distill.training.steps import batch_rows


def describe(training: Training) -> str:
    """Describe in one line what will be trained."""
    settings, count = training.settings, sum(value.numel() for value in training.parameters.values())
    kind = f"LoRA of rank {settings.model.rank}" if settings.model.adapter == "lora" else "all weights"
    return (
        f"{settings.model.family} {settings.model.base}: {kind}, {count:,} trained weights; "
        f"{len(training.examples):,} examples; {settings.targets.rule}, w {settings.targets.guidance:g}, "
        f"rho {settings.targets.drop:g}; on {describe_device(training.device)}"
    )


def measure_step(training: Training) -> float:
    """Return the seconds that one step's gradients take; they are discarded."""
    rows = batch_rows(len(training.examples), training.settings.train.batch_size, 0, 0)
    seconds = 0.0
    for _ in range(2):  # the first one includes what happens only once
        start = time.perf_counter()
        backward(training, rows, draw(training))
        seconds = time.perf_counter() - start
    training.optimizer.zero_grad(set_to_none=True)
    return seconds


def estimate(training: Training) -> str:
    """Describe how long a step and the rest will take, and how much memory a step held."""
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
    from mmtoolkit.distill.models.families import Source
    from mmtoolkit.distill.training.memory import expected_memory, free_memory

    facts = cache.describe_work(settings)
    source = Source.open(settings.model.base, settings.model.family, settings.model.layout)
    rows = settings.train.batch_size // settings.train.accumulation
    memory = expected_memory(settings, source, int(facts["size"]), rows)
    free = free_memory(resolve_device(settings.device))
    shown = {} if free is None else {"free_memory_gb": round(free / 1e9, 3)}
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
        **shown,
    }
