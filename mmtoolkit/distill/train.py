"""Distil a student: the function behind `mmtk distill train`."""

import time
from pathlib import Path

from mmtoolkit.core.logging import logger
from mmtoolkit.core.report import write_results
from mmtoolkit.core.run import RunDirectory
from mmtoolkit.distill.config import DistillSettings
from mmtoolkit.distill.report import TrainResult, write_train_report
from mmtoolkit.distill.training.describe import describe, estimate
from mmtoolkit.distill.training.loop import fit
from mmtoolkit.distill.training.state import Training, restore, set_up


def train(settings: DistillSettings, run: RunDirectory | Path, *, resume: bool = False) -> TrainResult:
    """Distil the student that the settings describe.

    Args:
        settings: all settings; `data`, `model`, `targets` and `train` are used.
        run: the run, or a new folder for it; made once data and base have proved usable. The latents of a
            latent family are cached in it, unless `data.path` is a cache already.
        resume: continue from the run's last checkpoint, to the same bits; from the beginning, or from the
            unfinished cache, if there is no checkpoint yet.

    Returns:
        What the student measured.

    Raises:
        DataError: if the data cannot be used.
        CheckpointError: if the base cannot be loaded, or the checkpoint is of another one or other data.
        DivergenceError: if the loss stops being finite; the last checkpoint stays.
        StoppedError: after SIGTERM or Ctrl-C; a checkpoint has been written.
    """
    run = RunDirectory.of(run, settings, resume=resume)
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
