"""Train a small pixel-space diffusion model from scratch: the function behind `mmtk distill teach`."""

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
        run: the run, or a new folder for it; made once the data have proved usable.
        resume: continue from the run's last checkpoint, to the same bits.

    Returns:
        What the teacher measured.

    Raises:
        DataError: if the pictures cannot be used; nothing has been written then.
        DivergenceError: if the loss stops being finite.
        StoppedError: after SIGTERM or Ctrl-C; a checkpoint has been written.
    """
    run = RunDirectory.of(run, settings, resume=resume)
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
        if teaching.accelerator.is_main_process:
            _write(teaching, run, result)
    return result


def _write(teaching: Teaching, run: RunDirectory, result: TeachResult) -> None:
    """Write results.json, the plot of the loss, and the teacher as one file."""
    write_results(run, result, teaching.denoiser.device)
    draw_curves(run, {"loss": ["loss"]}, x="step")
    spec = teaching.denoiser.spec
    save_pixel(run.path / "teacher.safetensors", teaching.average.values, spec, asdict(result))


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
