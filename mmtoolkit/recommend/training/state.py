"""The state of a run: everything that training holds, and how a checkpoint keeps it."""

from dataclasses import dataclass, field

from mmtoolkit.core.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from mmtoolkit.core.device import (
    capture_rng,
    describe_device,
    resolve_device,
    restore_rng,
    seed_everything,
)
from mmtoolkit.core.logging import logger
from mmtoolkit.core.run import RunDirectory
from mmtoolkit.core.training import Best
from mmtoolkit.recommend.config import RecommendSettings
from mmtoolkit.recommend.data.dataset import RecommendData
from mmtoolkit.recommend.load import check_data
from mmtoolkit.recommend.models.kinds import make_learner
from mmtoolkit.recommend.models.learner import Learner, Loop
from mmtoolkit.recommend.training.workers import Workers


@dataclass
class Training:
    """Everything that training holds.

    Attributes:
        settings: of the run.
        data: the data set.
        learner: the model, its optimizers and its graphs.
        loop: the epoch, the clock and the processes.
        best: the epoch with the best validation score.
    """

    settings: RecommendSettings
    data: RecommendData
    learner: Learner
    loop: Loop
    best: Best = field(default_factory=lambda: Best(higher=True))

    @property
    def most_epochs(self) -> int:
        """Epochs after which training ends at the latest; a closed form needs one."""
        return self.settings.train.epochs if self.learner.optimizers else 1

    @property
    def finished(self) -> bool:
        """Whether the epochs or the patience are used up."""
        epoch = self.loop.epoch
        if epoch >= self.most_epochs:
            return True
        return bool(self.learner.optimizers) and epoch - self.best.epoch >= self.settings.train.patience

    def describe(self) -> str:
        """Return one line for the log: model, data set, device and processes."""
        data, workers = self.data, self.loop.workers
        processes = f", {workers.count} processes" if workers.count > 1 else ""
        return (
            f"{self.settings.model.kind} on {data.name}: {data.users:,} users, {data.items:,} items, "
            f"{data.train.nnz:,} training interactions, modalities {', '.join(data.modalities)}; "
            f"on {describe_device(self.loop.device)}{processes}"
        )


def set_up(settings: RecommendSettings, data: RecommendData) -> Training:
    """Build graphs, networks and optimizers; the seed fixes all of them."""
    workers, device = Workers.join(resolve_device(settings.device))
    seed_everything(settings.seed)
    learner = make_learner(settings, data, device)
    return Training(settings, data, learner, Loop(device, workers))


def save(training: Training, run: RunDirectory, *, best: bool) -> None:
    """Write a checkpoint of the epoch that has just ended.

    Args:
        training: what to save.
        run: the run's folder.
        best: whether this epoch has the best validation score so far.
    """
    learner = training.learner
    state = learner.state() | {
        "optimizers": {name: opt.state_dict() for name, opt in learner.optimizers.items()},
        "rng": capture_rng(),
        **training.best.state(),
    }
    meta = {"engine": "recommend", "data": training.data.fingerprint()}
    checkpoint = Checkpoint(learner.weights(), state, meta)
    save_checkpoint(run.checkpoints, training.loop.epoch, checkpoint, best=best)


def restore(training: Training, run: RunDirectory) -> None:
    """Restore a run's last checkpoint; training then continues to the same bits.

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
    training.best = Best.of(checkpoint.state, higher=True)
    restore_rng(checkpoint.state["rng"])
    if training.loop.workers.is_main:
        run.rewind_metrics("epoch", training.loop.epoch)
    logger.info("resumed after epoch %d", training.loop.epoch)
