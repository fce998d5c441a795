"""The training loop: epochs of diffusion, of triples and of validation."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch

from mmtoolkit.core.device import peak_memory
from mmtoolkit.core.logging import logger
from mmtoolkit.core.progress import progress_bar
from mmtoolkit.core.run import RunDirectory
from mmtoolkit.core.training import StopRequest, stop_signals
from mmtoolkit.recommend.data.dataset import IntArray
from mmtoolkit.recommend.evaluation.metrics import means, score_users
from mmtoolkit.recommend.training.state import Training, save


def fit(training: Training, run: RunDirectory) -> None:
    """Run the epochs; each adds a line to metrics.jsonl, some write a checkpoint.

    Raises:
        DivergenceError: if a loss stops being finite.
        StoppedError: if a signal asked to stop, after a checkpoint was written.
    """
    settings, loop = training.settings.train, training.loop
    bar = progress_bar("epochs, at most", training.most_epochs, loop.epoch)
    with stop_signals() as stop, bar as advance:
        for record, better in epochs(training):
            # all processes must leave in the same epoch, or one would wait for the others forever
            request = StopRequest(loop.workers.agree(stop.received))
            due = better or training.finished or loop.epoch % settings.checkpoint_every == 0
            note = (
                f"{settings.monitor} {record[settings.monitor]:.4f}, "
                f"best {training.best.score:.4f} at epoch {training.best.epoch}"
            )
            if loop.workers.is_main:
                run.log_metrics(record)
                if due or request:
                    save(training, run, best=better)
                logger.info("epoch %d: %s, %.1f s", loop.epoch, note, record["seconds"])
            advance(note)
            request.check(f"epoch {loop.epoch}", run.path)


def epochs(training: Training) -> Iterator[tuple[dict[str, Any], bool]]:
    """Run epochs until they or the patience are used up.

    Yields:
        What an epoch measured, and whether its validation score is the best so far.
    """
    monitor = training.settings.train.monitor
    while not training.finished:
        record = training.loop.workers.agree(train_epoch(training))
        yield record, training.best.update(training.loop.epoch, record[monitor])


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
    """Train the recommender for one pass over the training interactions."""
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
    # a pair as one number, so that one binary search finds the draws that are positives; only those repeat
    known = np.sort(users * items + positives)
    negatives = np.zeros_like(positives)
    pending = np.arange(len(users))
    while len(pending):
        negatives[pending] = torch.randint(items, (len(pending),)).numpy()
        keys = users[pending] * items + negatives[pending]
        nearest = np.minimum(np.searchsorted(known, keys), len(known) - 1)
        pending = pending[known[nearest] == keys]
    return np.stack([users, positives, negatives], axis=1)
