"""Train IGDMRec or a peer: epochs of what the model does first, of triples, and of validation."""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch

from mmtoolkit.core.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from mmtoolkit.core.device import (
    capture_rng,
    describe_device,
    peak_memory,
    resolve_device,
    restore_rng,
    seed_everything,
)
from mmtoolkit.core.errors import RunError
from mmtoolkit.core.logging import logger
from mmtoolkit.core.progress import progress_bar
from mmtoolkit.core.run import BEST, RunDirectory
from mmtoolkit.recommend.config import RecommendSettings
from mmtoolkit.recommend.data.dataset import IntArray, RecommendData, load_data
from mmtoolkit.recommend.evaluation.metrics import RANKED, means, score_users, write_user_scores
from mmtoolkit.recommend.load import check_data, make_learner
from mmtoolkit.recommend.models.learner import Learner, Loop
from mmtoolkit.recommend.report import write_run_report
from mmtoolkit.recommend.training.workers import Workers


@dataclass(frozen=True)
class TrainResult:
    """What a finished run measured; metrics are fractions by name, such as `recall@20`.

    Attributes:
        epochs: epochs trained.
        best_epoch: epoch of the best validation score, which was restored.
        validation: metrics there on validation; likewise `test`.
        graphs: share of each item graph's edges within a known group, where groups are known.
    """

    epochs: int
    best_epoch: int
    validation: dict[str, float]
    test: dict[str, float]
    graphs: dict[str, float]


@dataclass
class Training:
    """Everything that training holds; the loop and `best_*` change as it goes."""

    settings: RecommendSettings
    data: RecommendData
    learner: Learner
    loop: Loop
    best_epoch: int = 0
    best_score: float = -1.0

    @property
    def finished(self) -> bool:
        """Whether the epochs or the patience are used up; a closed form needs one epoch."""
        settings, epoch = self.settings.train, self.loop.epoch
        if not self.learner.optimizers:
            return epoch > 0
        return epoch >= settings.epochs or epoch - self.best_epoch >= settings.patience


def train(
    settings: RecommendSettings,
    run: RunDirectory,
    data: RecommendData | None = None,
    *,
    resume: bool = False,
) -> TrainResult:
    """Train until validation stops improving, restore the best epoch and test it once.

    Args:
        settings: all settings.
        run: the run's folder; a new one is made once the data have proved usable.
        data: the data set; read from `settings.data.path` if not given.
        resume: continue from the run's last checkpoint, to the same bits.

    Raises:
        DataError: if the data set cannot be used; nothing has been written then.
        CheckpointError: if a run to resume has no checkpoint or was trained on other data.
        DivergenceError: if a loss stops being finite; the last checkpoint stays.
    """
    training = set_up(settings, load_data(settings.data.path) if data is None else data)
    if resume:
        restore(training, run)
    workers = training.loop.workers
    if not workers.is_main:
        fit(training, run)
        return workers.agree(None)
    run.start()
    with run.logging():
        logger.info("%s", _describe(training))
        fit(training, run)
        return workers.agree(_finish(training, run))


def set_up(settings: RecommendSettings, data: RecommendData) -> Training:
    """Build graphs, networks and optimizers; the seed fixes all of them."""
    workers, device = Workers.join(resolve_device(settings.device))
    seed_everything(settings.seed)
    learner = make_learner(settings, data, device)
    return Training(settings, data, learner, Loop(device, workers))


def epochs(training: Training) -> Iterator[tuple[dict[str, Any], bool]]:
    """Run epochs until they or the patience are used up.

    Yields:
        What an epoch measured, and whether its validation score is the best so far.
    """
    monitor = training.settings.train.monitor
    while not training.finished:
        record = training.loop.workers.agree(train_epoch(training))
        better = record[monitor] > training.best_score
        if better:
            training.best_epoch, training.best_score = training.loop.epoch, record[monitor]
        yield record, better


def fit(training: Training, run: RunDirectory) -> None:
    """Run the epochs; every one leaves a line in metrics.jsonl, some a checkpoint."""
    settings, loop = training.settings.train, training.loop
    most = settings.epochs if training.learner.optimizers else 1
    with progress_bar("epochs, at most", most, loop.epoch) as advance:
        for record, better in epochs(training):
            note = (
                f"{settings.monitor} {record[settings.monitor]:.4f}, "
                f"best {training.best_score:.4f} at epoch {training.best_epoch}"
            )
            if loop.workers.is_main:
                run.log_metrics(record)
                if better or training.finished or loop.epoch % settings.checkpoint_every == 0:
                    save(training, run, best=better)
                logger.info("epoch %d: %s, %.1f s", loop.epoch, note, record["seconds"])
            advance(note)


def train_epoch(training: Training) -> dict[str, Any]:
    """Run one epoch and return its losses, validation metrics and seconds by stage."""
    loop, learner = training.loop, training.learner
    loop.epoch += 1
    loop.seconds = {}
    record: dict[str, Any] = {"epoch": loop.epoch}
    record |= learner.begin_epoch(loop)
    if "recommender" in learner.optimizers:
        record |= _train_on_triples(training)
    with loop.clock("evaluation"):
        scores = learner.scorer().scores
        record |= means(score_users(scores, training.data, "validation", training.settings.evaluate))
    stages = {f"seconds_{stage}": round(s, 3) for stage, s in loop.seconds.items()}
    total = round(sum(loop.seconds.values()), 3)
    return record | stages | {"seconds": total, "peak_memory": peak_memory(loop.device)}


def _train_on_triples(training: Training) -> dict[str, float]:
    """Teach the recommender for one pass over the training interactions."""
    learner, loop = training.learner, training.loop
    losses = []
    with loop.clock("recommender"):
        triples = torch.from_numpy(sample_triples(training.data.train))
        for batch in triples[torch.randperm(len(triples))].split(training.settings.train.batch_size):
            own = loop.workers.share(batch).to(loop.device)
            loss = loop.workers.part(learner.loss(own), len(batch))
            losses.append(loop.step("recommender", learner.optimizers["recommender"], loss))
    return {"loss_recommender": float(np.mean(losses))}


def sample_triples(train: sp.csr_array) -> IntArray:
    """Pair every interaction with an item that its user does not have, drawn uniformly.

    Returns:
        `(interactions, 3)` of user, positive, negative, drawn with torch's global generator.
    """
    items = train.shape[1]
    users = np.repeat(np.arange(train.shape[0]), np.diff(train.indptr))
    positives = train.indices.astype(np.int64)
    known = np.sort(users * items + positives)
    negatives = np.zeros_like(positives)
    open_places = np.arange(len(users))
    while len(open_places):
        negatives[open_places] = torch.randint(items, (len(open_places),)).numpy()
        keys = users[open_places] * items + negatives[open_places]
        places = np.minimum(np.searchsorted(known, keys), len(known) - 1)
        open_places = open_places[known[places] == keys]
    return np.stack([users, positives, negatives], axis=1)


def save(training: Training, run: RunDirectory, *, best: bool) -> None:
    """Write a checkpoint of the epoch that has just ended."""
    learner = training.learner
    state = learner.state() | {
        "optimizers": {name: opt.state_dict() for name, opt in learner.optimizers.items()},
        "rng": capture_rng(),
        "best_epoch": training.best_epoch,
        "best_score": training.best_score,
    }
    meta = {"engine": "recommend", "data": training.data.fingerprint()}
    checkpoint = Checkpoint(learner.weights(), state, meta)
    save_checkpoint(run.checkpoints, training.loop.epoch, checkpoint, best=best)


def restore(training: Training, run: RunDirectory) -> None:
    """Put a run's last checkpoint back, as if it had never stopped.

    Raises:
        CheckpointError: if there is none, or it was trained on other data or other sizes.
    """
    path = run.checkpoint()
    checkpoint = load_checkpoint(path)
    check_data(checkpoint, training.data, path)
    training.loop.epoch = checkpoint.meta["step"]
    training.learner.load_weights(checkpoint, path)
    training.learner.load_state(checkpoint.state)
    for name, optimizer in training.learner.optimizers.items():
        optimizer.load_state_dict(checkpoint.state["optimizers"][name])
    training.best_epoch = checkpoint.state["best_epoch"]
    training.best_score = checkpoint.state["best_score"]
    restore_rng(checkpoint.state["rng"])
    if training.loop.workers.is_main:
        run.rewind_metrics("epoch", training.loop.epoch)
    logger.info("resumed after epoch %d", training.loop.epoch)


def _finish(training: Training, run: RunDirectory) -> TrainResult:
    """Restore the best epoch, rank for validation and test once, and write what came out."""
    if not training.best_epoch:
        raise RunError("no epoch was trained; raise train.epochs")
    path = run.checkpoint(BEST)
    training.learner.load_weights(load_checkpoint(path, state=False), path)
    settings, data, scorer = training.settings, training.data, training.learner.scorer()
    users = {split: score_users(scorer.scores, data, split, settings.evaluate) for split in RANKED}
    result = TrainResult(
        training.loop.epoch,
        training.best_epoch,
        means(users["validation"]),
        means(users["test"]),
        training.learner.purities(),
    )
    for split, scores in users.items():
        write_user_scores(run, split, scores)
    run.write_results(asdict(result) | {"device": describe_device(training.loop.device)})
    write_run_report(run, data, result)
    return result


def _describe(training: Training) -> str:
    data, workers = training.data, training.loop.workers
    together = f", {workers.count} processes" if workers.count > 1 else ""
    return (
        f"{training.settings.model.kind} on {data.name}: {data.users:,} users, {data.items:,} items, "
        f"{data.train.nnz:,} training interactions, modalities {', '.join(data.modalities)}; "
        f"on {describe_device(training.loop.device)}{together}"
    )


def describe_work(settings: RecommendSettings) -> dict[str, int | str]:
    """Check settings and data without training, and tell the sizes of the work.

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
