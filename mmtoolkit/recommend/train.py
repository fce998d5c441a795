"""Train IGDMRec or a peer: the function behind `mmtk recommend train`."""

import math
from pathlib import Path

from mmtoolkit.core.checkpoint import load_checkpoint
from mmtoolkit.core.device import describe_device
from mmtoolkit.core.errors import RunError
from mmtoolkit.core.logging import logger
from mmtoolkit.core.report import write_results
from mmtoolkit.core.run import BEST, RunDirectory
from mmtoolkit.recommend.config import RecommendSettings
from mmtoolkit.recommend.data.dataset import RecommendData
from mmtoolkit.recommend.data.read import load_data
from mmtoolkit.recommend.evaluation.metrics import RANKED, means, score_users, write_user_scores
from mmtoolkit.recommend.report import TrainResult, write_run_report
from mmtoolkit.recommend.training.loop import fit
from mmtoolkit.recommend.training.state import Training, restore, set_up


def train(
    settings: RecommendSettings,
    run: RunDirectory | Path,
    data: RecommendData | None = None,
    *,
    resume: bool = False,
) -> TrainResult:
    """Train until validation stops improving, restore the best epoch and test it once.

    Args:
        settings: all settings.
        run: the run, or its folder. The folder of a new run is made after the data have been checked.
        data: the data set; default: read from `settings.data.path`.
        resume: continue from the run's last checkpoint, to the same bits.

    Raises:
        DataError: if the data set cannot be used; nothing has been written then.
        CheckpointError: if a run to resume has no checkpoint or was trained on other data.
        DivergenceError: if a loss stops being finite; the last checkpoint stays.
        StoppedError: if a signal asked to stop, after a checkpoint was written.
    """
    run = RunDirectory.of(run, settings, resume=resume)
    training = set_up(settings, load_data(settings.data.path) if data is None else data)
    if resume:
        restore(training, run)
    workers = training.loop.workers
    if not workers.is_main:
        fit(training, run)
        return workers.agree(None)
    run.start()
    with run.logging():
        logger.info("%s", training.describe())
        fit(training, run)
        return workers.agree(_finish(training, run))


def _finish(training: Training, run: RunDirectory) -> TrainResult:
    """Restore the best epoch, rank validation and test once, and write the results."""
    if not training.best.epoch:
        raise RunError("no epoch was trained; raise train.epochs")
    path = run.checkpoint(BEST)
    training.learner.load_weights(load_checkpoint(path, state=False), path)
    settings, data, scorer = training.settings, training.data, training.learner.scorer()
    users = {split: score_users(scorer.scores, data, split, settings.evaluate) for split in RANKED}
    result = TrainResult(
        training.loop.epoch,
        training.best.epoch,
        means(users["validation"]),
        means(users["test"]),
        training.learner.purities(),
    )
    for split, scores in users.items():
        write_user_scores(run, split, scores)
    write_results(run, result, training.loop.device)
    write_run_report(run, data, result)
    return result


def describe_work(settings: RecommendSettings) -> dict[str, int | str]:
    """Check settings and data without training, and return the sizes of the work.

    Raises:
        DataError: if the data set cannot be used.
    """
    training = set_up(settings, load_data(settings.data.path))
    data, optimizers = training.data, training.learner.optimizers
    parameters = {
        name: sum(p.numel() for group in opt.param_groups for p in group["params"])
        for name, opt in optimizers.items()
    }
    facts: dict[str, int | str] = {
        "model": settings.model.kind,
        "data": data.name,
        "users": data.users,
        "items": data.items,
        "interactions": data.train.nnz,
        "modalities": ", ".join(data.modalities),
        **training.learner.sizes(),
    }
    if "recommender" in optimizers:
        facts["steps_recommender"] = math.ceil(data.train.nnz / settings.train.batch_size)
    facts |= {f"parameters_{name}": count for name, count in parameters.items()}
    facts["device"] = describe_device(training.loop.device)
    if parameters:
        facts["checkpoint_bytes"] = 12 * sum(parameters.values())
    return facts
