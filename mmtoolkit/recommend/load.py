"""Open a trained model for use."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import scipy.sparse as sp
from torch import Tensor

from mmtoolkit.core.checkpoint import Checkpoint, load_checkpoint
from mmtoolkit.core.config import Layer, config_layer, nested, resolve
from mmtoolkit.core.device import resolve_device
from mmtoolkit.core.errors import CheckpointError, UsageError
from mmtoolkit.core.fields import DeviceName
from mmtoolkit.core.run import RunDirectory
from mmtoolkit.recommend.config import RecommendSettings
from mmtoolkit.recommend.data.dataset import IntArray, RecommendData
from mmtoolkit.recommend.data.read import load_data
from mmtoolkit.recommend.models.igdmrec import stored_item_graph, stored_scorer
from mmtoolkit.recommend.models.kinds import make_learner
from mmtoolkit.recommend.models.learner import Embeddings, HistoryWeights, Scorer, WithHistory


@dataclass(frozen=True)
class Model:
    """A trained recommender, ready to rank.

    Attributes:
        settings: of the run.
        data: the data set that it was trained on.
        scorer: computes the scores of all items.
        weights: the checkpoint's tensors by name; `recommender.users` and `recommender.items`, if the
            model has them, are the embeddings before any propagation.
        item_graph: normalised item graph that the representations use, `(items, items)`, or None.
    """

    settings: RecommendSettings
    data: RecommendData
    scorer: Scorer
    weights: Mapping[str, Tensor]
    item_graph: sp.csr_array | None

    @property
    def history(self) -> HistoryWeights | None:
        """The part of the scores that comes from the history directly; None if there is no such part."""
        part = self.scorer.history if isinstance(self.scorer, WithHistory) else self.scorer
        return part if isinstance(part, HistoryWeights) else None

    @property
    def users(self) -> Tensor | None:
        """Representations `(users, width)`; None if scores are no inner products."""
        return None if (embeddings := self._embeddings) is None else embeddings.users

    @property
    def items(self) -> Tensor | None:
        """Representations `(items, width)`; None if scores are no inner products."""
        return None if (embeddings := self._embeddings) is None else embeddings.items

    def representations(self, purpose: str) -> tuple[Tensor, Tensor]:
        """Return the representations `(users, width)` and `(items, width)`.

        Args:
            purpose: what needs them, for the message.

        Raises:
            UsageError: if scores are no inner products.
        """
        if (embeddings := self._embeddings) is None:
            raise UsageError(
                f"{purpose} needs user and item embeddings, and {self.settings.model.kind} has none; "
                "take a run of igdmrec, freedom, vbpr, lightgcn or bpr-mf"
            )
        return embeddings.users, embeddings.items

    @property
    def _embeddings(self) -> Embeddings | None:
        part = self.scorer.embeddings if isinstance(self.scorer, WithHistory) else self.scorer
        return part if isinstance(part, Embeddings) else None

    def scores(self, users: IntArray) -> Tensor:
        """Score all items for some users, `(users,)` to a new array `(users, items)`."""
        return self.scorer.scores(users)


def load(checkpoint: Path, data: Path | None = None, device: DeviceName = "auto") -> Model:
    """Load the best checkpoint of a run, or one checkpoint, with the data set that it was trained on.

    Args:
        checkpoint: folder of a run, or of one checkpoint in it.
        data: data set folder, if it is not where training found it.
        device: where to compute.

    Raises:
        CheckpointError: if there is no such checkpoint or it was trained on other data.
        DataError: if the data set cannot be read.
    """
    run, path = RunDirectory.locate(checkpoint)
    layers = [config_layer("recommend", str(run.config_path))]
    if data is not None:
        layers.append(Layer("`data`", nested("data.path", str(data))))
    settings = resolve(RecommendSettings, layers).settings
    used_device = resolve_device(device)
    interactions = load_data(settings.data.path)
    stored = load_checkpoint(path, state=False)
    check_data(stored, interactions, path)
    if settings.model.kind == "igdmrec":
        scorer: Scorer = stored_scorer(settings, interactions, stored, path, used_device)
        item_graph: sp.csr_array | None = stored_item_graph(stored, interactions.items)
    else:
        learner = make_learner(settings, interactions, used_device)
        learner.load_weights(stored, path)
        scorer, item_graph = learner.scorer(), learner.item_graph
    return Model(settings, interactions, scorer, stored.model, item_graph)


def opened(model: Model | Path) -> Model:
    """Return a model, loading it if a folder is given; see :func:`load`."""
    return load(model) if isinstance(model, Path) else model


def check_data(checkpoint: Checkpoint, data: RecommendData, path: Path) -> None:
    """Refuse data that the checkpoint was not trained on.

    Raises:
        CheckpointError: if the interactions differ.
    """
    if checkpoint.meta.get("data") != data.fingerprint():
        raise CheckpointError(
            f"{path}: trained on other interactions than those of '{data.name}'; "
            "give its own data set with `data`"
        )
