"""The interface between the training loop and the models, and the forms of a trained model's scores."""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import scipy.sparse as sp
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmtoolkit.core.checkpoint import Checkpoint, matching_weights
from mmtoolkit.core.training import check_finite
from mmtoolkit.recommend.config import RecommendSettings
from mmtoolkit.recommend.data.dataset import IntArray, RecommendData
from mmtoolkit.recommend.graphs.sparse import SparseRows, bag
from mmtoolkit.recommend.training.workers import ALONE, Workers


class Scorer(Protocol):
    """Scores all items for some users."""

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
    """Scores as sums of the weights between the user's items and all items.

    Attributes:
        history: items of the users, `(users, items)`.
        weights: `(items, items)`, dense or sparse; row j is what item j of a user
            adds to the score of each item.
        device: of the scores.
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
    """Inner products plus the history term."""

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


RATES = {"cdnet": "diffusion.learning_rate", "recommender": "train.learning_rate"}
"""Setting of each optimizer's learning rate."""


@dataclass
class Loop:
    """The position of training: the epoch, its seconds by stage and the processes that share the work."""

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
        """Take one optimizer step on this process's part of a batch's loss, and return the whole loss.

        Raises:
            DivergenceError: if the loss is not finite.
        """
        setting = RATES[name]
        value = check_finite(self.workers.total(loss.item()), f"epoch {self.epoch}, {name}", setting)
        loss.backward()
        self.workers.add_gradients(optimizer)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)  # now, so that the following stages hold no gradients in memory
        return value


class Learner(ABC):
    """A model in training; the loop is in :mod:`mmtoolkit.recommend.training.loop`.

    Attributes:
        recommender: the network whose weights are enough to rank.
        optimizers: by name; `recommender` minimises :meth:`loss`. A closed form has none.
        item_graph: normalised item graph that the representations use, or None.
    """

    recommender: nn.Module
    optimizers: dict[str, torch.optim.Optimizer]
    item_graph: sp.csr_array | None = None

    def __init__(self, settings: RecommendSettings, data: RecommendData, device: torch.device) -> None:
        """Store what every model needs; subclasses make networks and optimizers."""
        self.settings, self.data, self.device = settings, data, device
        self.optimizers = {}

    def begin_epoch(self, loop: Loop) -> dict[str, float]:  # noqa: ARG002
        """Run the part of an epoch before the batches of triples, and return values for metrics.jsonl."""
        return {}

    @abstractmethod
    def loss(self, batch: Tensor) -> Tensor:
        """Return the mean loss over triples of user, positive and negative item, `(batch, 3)`."""

    @abstractmethod
    def scorer(self) -> Scorer:
        """Return the scores of the current weights."""

    def weights(self) -> dict[str, Tensor]:
        """Return named weights, enough to rank."""
        return {f"recommender.{k}": v for k, v in self.recommender.state_dict().items()}

    def load_weights(self, checkpoint: Checkpoint, path: Path) -> None:
        """Load :meth:`weights` from a checkpoint.

        Raises:
            CheckpointError: if they belong to another model.
        """
        load_module(self.recommender, checkpoint, path)

    def state(self) -> dict[str, Any]:
        """Return what only further training needs, without the optimizers."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:  # noqa: B027 - most models have none
        """Load :meth:`state`."""

    def sizes(self) -> dict[str, int]:
        """Return the sizes of the model's work, for a dry run."""
        return {}

    def purities(self) -> dict[str, float]:
        """Return the share of each item graph's edges within a known group; empty without groups."""
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
    # the gradient of F.embedding is summed in a fixed order, that of plain indexing is not
    user, positive, negative = (
        F.embedding(ids, rows) for rows, ids in zip((users, items, items), batch.T, strict=True)
    )
    return user, positive, negative
