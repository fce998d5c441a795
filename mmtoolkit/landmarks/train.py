"""The function behind `mmtk landmarks train`."""

from pathlib import Path

from mmtoolkit.core.checkpoint import load_checkpoint
from mmtoolkit.core.device import describe_device, resolve_device
from mmtoolkit.core.errors import RunError
from mmtoolkit.core.logging import logger
from mmtoolkit.core.report import write_results
from mmtoolkit.core.run import BEST, RunDirectory
from mmtoolkit.landmarks.config import LandmarkSettings
from mmtoolkit.landmarks.data.batches import split_photos
from mmtoolkit.landmarks.models.networks import count_operations, make_model
from mmtoolkit.landmarks.report import TrainResult, write_run_report
from mmtoolkit.landmarks.training.loop import fit, validate
from mmtoolkit.landmarks.training.state import Training, restore, set_up, start_weights


def train(settings: LandmarkSettings, run: RunDirectory | Path, *, resume: bool = False) -> TrainResult:
    """Train for the planned epochs and keep the weights with the lowest validation NME.

    Args:
        settings: all settings.
        run: folder of the run; a new one is made once the data have been read. A path means a new folder, or
            with `resume` an earlier run.
        resume: continue from the run's last checkpoint, to the same bits.

    Raises:
        DataError: if a data set cannot be used; nothing has been written then.
        CheckpointError: if a run to resume has no checkpoint or was trained on other faces.
        DivergenceError: if the loss stops being finite; the last checkpoint stays.
        StoppedError: if a signal ends the run; the epoch's checkpoint is written first.
    """
    if resume and isinstance(run, Path):
        run = RunDirectory.open(run)
    run = RunDirectory.of(run, settings, resume=resume)
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


def _follow(training: Training) -> TrainResult:
    """Train along with the main process, which writes everything."""
    fit(training, None)
    return TrainResult(training.epoch, 0, {}, 0.0)


def _finish(training: Training, run: RunDirectory) -> TrainResult:
    """Score the best epoch again and write the results and the report."""
    best = training.best.epoch
    if not best:
        raise RunError("no epoch was trained; raise train.epochs")
    training.average.load(load_checkpoint(run.checkpoint(BEST), state=False).model)
    evaluation = validate(training)
    speed = training.epoch * training.faces_per_epoch / max(1e-9, training.seconds)
    result = TrainResult(training.epoch, best, evaluation.metrics, round(speed, 1))
    write_results(run, result, training.accelerator.device)
    write_run_report(run, evaluation, _describe(training), best)
    return result


def _describe(training: Training) -> str:
    photos = int((~training.crops.rendered).sum())
    return (
        f"{photos:,} photographs and {len(training.crops) - photos:,} rendered faces, "
        f"{len(training.validation.truths):,} to validate on; {training.steps:,} steps "
        f"on {describe_device(training.accelerator.device)}"
    )


def describe_work(settings: LandmarkSettings) -> dict[str, int | str]:
    """Check settings and data without training or rendering, and return the sizes of the work.

    Raises:
        DataError: if a data set cannot be used.
        ConfigError: if the package with pretrained weights is not installed.
        CheckpointError: if the weights to start from belong to another network.
    """
    photos, held_out = split_photos(settings.data)
    model = make_model(settings.model)
    start_weights(model, settings)
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
