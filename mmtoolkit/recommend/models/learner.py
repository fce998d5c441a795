"""What the training loop asks of a model, and what a trained model ranks with."""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmtoolkit.core.checkpoint import Checkpoint, matching_weights
from mmtoolkit.core.errors import DivergenceError
from mmtoolkit.recommend.config import RecommendSettings
from mmtoolkit.recommend.data.dataset import IntArray, RecommendData
from mmtoolkit.recommend.graphs.sparse import SparseRows, bag
from mmtoolkit.recommend.training.workers import ALONE, Workers


class Scorer(Protocol):
    """Something that scores all items for some users."""

    def scores(self, users: IntArray) -> Tensor:
        """Return a new array of scores, `(users, items)`."""


@dataclass(frozen=True)
class Embeddings:
    """Scores as inner products.

    Attributes:
        users: representations, `(users, width)`.
        items: representations, `(items, width)`.
    """

    users: Tensor
    items: Tensor

    def scores(self, users: IntArray) -> Tensor:
        """Return the scores of all items for some users, `(users, items)`."""
        return self.users[torch.from_numpy(users).to(self.users.device)] @ self.items.T


@dataclass(frozen=True)
class HistoryWeights:
    """Scores as the sum of the weights between what a user has and every item.

    Attributes:
        history: what users have, `(users, items)`.
        weights: `(items, items)`, dense or sparse; row j says for which items having j speaks.
        device: where the scores are wanted.
    """

    history: sp.csr_array
    weights: Tensor | sp.csr_array
    device: torch.device

    def scores(self, users: IntArray) -> Tensor:
        """Return the scores of all items for some users, `(users, items)`."""
        rows = sp.csr_array(self.history[users])
        if isinstance(self.weights, Tensor):
            return bag(self.weights, SparseRows(rows, self.device))
        return torch.from_numpy((rows @ self.weights).toarray()).to(self.device)


@dataclass(frozen=True)
class WithHistory:
    """Inner products plus what the history says directly."""

    embeddings: Embeddings
    history: HistoryWeights

    def scores(self, users: IntArray) -> Tensor:
        """Return the scores of all items for some users, `(users, items)`."""
        return self.embeddings.scores(users).add_(self.history.scores(users))


@dataclass(frozen=True)
class SameForAll:
    """The same scores for every user, `(items,)`."""

    items: Tensor

    def scores(self, users: IntArray) -> Tensor:
        """Return the scores of all items for some users, `(users, items)`."""
        return self.items.repeat(len(users), 1)


@dataclass
class Loop:
    """Where training stands: the epoch, its seconds by stage and the processes that share the work."""

    device: torch.device
    workers: Workers = ALONE
    epoch: int = 0
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def clock(self, stage: str) -> Iterator[None]:
        """Add the time of a stage to this epoch's seconds."""
        start = time.perf_counter()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.seconds[stage] = self.seconds.get(stage, 0) + time.perf_counter() - start

    def step(self, name: str, optimizer: torch.optim.Optimizer, loss: Tensor) -> float:
        """Step an optimizer down this process's part of a batch's loss and return the whole loss.

        Raises:
            DivergenceError: if the loss is not finite.
        """
        value = self.workers.total(loss.item())
        if not np.isfinite(value):
            where = {"cdnet": "diffusion.learning_rate"}.get(name, "train.learning_rate")
            raise DivergenceError(f"epoch {self.epoch}: the loss of the {name} is {value}; lower {where}")
        loss.backward()
        self.workers.add_gradients(optimizer)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)  # now, so that no gradients are held in the stages that follow
        return value


class Learner(ABC):
    """A model while it is trained; the loop is in :mod:`mmtoolkit.recommend.train`.

    Attributes:
        recommender: the network whose weights are enough to rank.
        optimizers: by name; `recommender` steps on :meth:`loss`. None of them: a closed form.
        item_graph: normalised graph of the items that the representations use, or None.
    """

    recommender: nn.Module
    optimizers: dict[str, torch.optim.Optimizer]
    item_graph: sp.csr_array | None = None

    def __init__(self, settings: RecommendSettings, data: RecommendData, device: torch.device) -> None:
        """Keep what every model needs; networks and optimizers are the subclass's."""
        self.settings, self.data, self.device = settings, data, device
        self.optimizers = {}

    def begin_epoch(self, loop: Loop) -> dict[str, float]:  # noqa: ARG002
        """Do what comes before an epoch's batches of triples, and return facts for metrics.jsonl."""
        return {}

    @abstractmethod
    def loss(self, batch: Tensor) -> Tensor:
        """Return the mean loss over triples of user, positive and negative item, `(batch, 3)`."""

    @abstractmethod
    def scorer(self) -> Scorer:
        """Return what ranks now."""

    def weights(self) -> dict[str, Tensor]:
        """Return named weights, enough to rank."""
        return {f"recommender.{k}": v for k, v in self.recommender.state_dict().items()}

    def load_weights(self, checkpoint: Checkpoint, path: Path) -> None:
        """Take :meth:`weights` back from a checkpoint.

        Raises:
            CheckpointError: if they belong to another model.
        """
        load_module(self.recommender, checkpoint, path)

    def state(self) -> dict[str, Any]:
        """Return what only further training needs, besides the optimizers."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:  # noqa: B027 - most models have none
        """Take :meth:`state` back."""

    def sizes(self) -> dict[str, int]:
        """Count what the model adds to the work, for `--dry-run`."""
        return {}

    def purities(self) -> dict[str, float]:
        """Judge the item graphs against known groups of items, where the data set has them."""
        return {}


def adam(module: nn.Module, rate: float) -> torch.optim.Optimizer:
    """Return Adam for all weights of a network."""
    return torch.optim.Adam(module.parameters(), rate, fused=True)


def load_module(module: nn.Module, checkpoint: Checkpoint, path: Path) -> None:
    """Fill a recommender from a checkpoint.

    Raises:
        CheckpointError: if a weight is missing or has another shape.
    """
    wanted = {f"recommender.{k}": v for k, v in module.state_dict().items()}
    weights = matching_weights(checkpoint.model, wanted, path)
    module.load_state_dict({k.partition(".")[2]: v for k, v in weights.items()})


def pick(batch: Tensor, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Look up the rows of a batch of triples: `(batch, width)` of users, positives and negatives."""
    # embedding's gradient adds up in a fixed order; that of plain indexing does not
    user, positive, negative = (
        F.embedding(ids, rows) for rows, ids in zip((users, items, items), batch.T, strict=True)
    )
    return user, positive, negative
