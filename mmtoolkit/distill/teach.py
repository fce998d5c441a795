"""Teach a small pixel-space diffusion model from nothing, conditioned on captions or classes."""

import time
from dataclasses import asdict
from pathlib import Path

from mmtoolkit.core.device import describe_device
from mmtoolkit.core.logging import logger
from mmtoolkit.core.report import draw_curves, write_results
from mmtoolkit.core.run import RunDirectory
from mmtoolkit.distill.config import DistillSettings
from mmtoolkit.distill.models.pixel import save_pixel
from mmtoolkit.distill.report import TeachResult
from mmtoolkit.distill.training.teaching import Teaching, fit, restore, set_up


def teach(settings: DistillSettings, run: RunDirectory | Path, *, resume: bool = False) -> TeachResult:
    """Train a pixel-space teacher from `data.path`.

    Args:
        settings: all settings; `data`, `network` and `teach` are used.
        run: the run, or a new folder for it; created once the data are known to be usable.
        resume: continue from the run's last checkpoint, to the same bits.

    Raises:
        DataError: if the pictures cannot be used; nothing has been written then.
        DivergenceError: if the loss stops being finite.
    """
    run = RunDirectory.of(run, settings)
    teaching = set_up(settings)
    if resume:
        restore(teaching, run)
    if teaching.accelerator.is_main_process:
        run.start()
    teaching.accelerator.wait_for_everyone()
    with run.logging():
        count = sum(value.numel() for value in teaching.denoiser.model.parameters())
        data = f"{len(teaching.examples):,} pictures, {len(teaching.denoiser.spec.words)} words"
        logger.info("%s; %s weights; on %s", data, f"{count:,}", describe_device(teaching.denoiser.device))
        start = time.perf_counter()
        fit(teaching, run)
        seconds = round(time.perf_counter() - start, 1)
        recent = teaching.losses[-100:]
        result = TeachResult(teaching.step, sum(recent) / max(1, len(recent)), seconds, count)
        _finish(teaching, run, result)
    return result


def _finish(teaching: Teaching, run: RunDirectory, result: TeachResult) -> None:
    if not teaching.accelerator.is_main_process:
        return
    write_results(run, result, teaching.denoiser.device)
    draw_curves(run, {"loss": ["loss"]}, x="step")
    teacher = run.path / "teacher.safetensors"
    save_pixel(teacher, teaching.average.values, teaching.denoiser.spec, asdict(result))


def describe_work(settings: DistillSettings) -> dict[str, int | str]:
    """Check settings and data without training, and return the sizes of the work.

    Raises:
        DataError: if the pictures cannot be used.
    """
    teaching = set_up(settings)
    spec = teaching.denoiser.spec
    count = sum(value.numel() for value in teaching.denoiser.model.parameters())
    return {
        "pictures": len(teaching.examples),
        "size": spec.size,
        "condition": spec.kind,
        "words": len(spec.words),
        "parameters": count,
        "steps": settings.teach.steps,
        "teacher_bytes": 2 * count,
        "device": describe_device(teaching.denoiser.device),
    }
