"""Load a trained run for evaluation and prediction."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import scipy.sparse as sp
import torch
from torch import Tensor

from mmtoolkit.core.checkpoint import Checkpoint, load_checkpoint
from mmtoolkit.core.config import Layer, config_layer, nested, resolve
from mmtoolkit.core.device import resolve_device
from mmtoolkit.core.errors import CheckpointError
from mmtoolkit.core.fields import DeviceName
from mmtoolkit.core.run import BEST, RunDirectory
from mmtoolkit.recommend.config import RecommendSettings
from mmtoolkit.recommend.data.dataset import IntArray, RecommendData, load_data
from mmtoolkit.recommend.graphs.noise import spoil
from mmtoolkit.recommend.models.igdmrec import Igdmrec, stored_item_graph, stored_scorer
from mmtoolkit.recommend.models.learner import Embeddings, HistoryWeights, Learner, Scorer, WithHistory
from mmtoolkit.recommend.models.peers.closed import Ease, ItemKnn, Popularity
from mmtoolkit.recommend.models.peers.learned import BprMf, Freedom, LightGcn, Vbpr

LEARNERS: dict[str, Callable[[RecommendSettings, RecommendData, torch.device], Learner]] = {
    "igdmrec": Igdmrec,
    "freedom": Freedom,
    "vbpr": Vbpr,
    "lightgcn": LightGcn,
    "bpr-mf": BprMf,
    "ease": Ease,
    "item-knn": ItemKnn,
    "popularity": Popularity,
}
"""By `model.kind`."""


@dataclass(frozen=True)
class Model:
    """A trained recommender, ready to rank.

    Attributes:
        settings: of the run.
        data: the data set that it was trained on.
        scorer: what ranks.
        weights: what the checkpoint stores, by name; `recommender.users` and `recommender.items` are
            the embeddings before any propagation, where the model has them.
        item_graph: normalised item graph that the representations use, `(items, items)`, or None.
    """

    settings: RecommendSettings
    data: RecommendData
    scorer: Scorer
    weights: Mapping[str, Tensor]
    item_graph: sp.csr_array | None

    @property
    def history(self) -> HistoryWeights | None:
        """What the history adds to a score, or all of it; None where scores have no such part."""
        part = self.scorer.history if isinstance(self.scorer, WithHistory) else self.scorer
        return part if isinstance(part, HistoryWeights) else None

    @property
    def users(self) -> Tensor | None:
        """Representations `(users, width)`; None where scores have no inner products."""
        return None if (embeddings := self._embeddings) is None else embeddings.users

    @property
    def items(self) -> Tensor | None:
        """Representations `(items, width)`; None where scores have no inner products."""
        return None if (embeddings := self._embeddings) is None else embeddings.items

    @property
    def _embeddings(self) -> Embeddings | None:
        part = self.scorer.embeddings if isinstance(self.scorer, WithHistory) else self.scorer
        return part if isinstance(part, Embeddings) else None

    def scores(self, users: IntArray) -> Tensor:
        """Score all items for some users, `(users,)` to a new array `(users, items)`."""
        return self.scorer.scores(users)


def make_learner(settings: RecommendSettings, data: RecommendData, device: torch.device) -> Learner:
    """Make the model of `model.kind`, untrained, on data spoilt as `data` in the settings says."""
    return LEARNERS[settings.model.kind](settings, spoil(data, settings, device), device)


def load_model(checkpoint: Path, data: Path | None = None, device: DeviceName = "auto") -> Model:
    """Load the best checkpoint of a run, or one checkpoint, with the data set behind it.

    Args:
        checkpoint: folder of a run, or of one checkpoint in it.
        data: data set folder, if it is not where training found it.
        device: where to compute.

    Raises:
        CheckpointError: if there is no such checkpoint or it was trained on other data.
        DataError: if the data set cannot be read.
    """
    run, path = _locate(checkpoint)
    layers = [config_layer("recommend", str(run.config_path))]
    if data is not None:
        layers.append(Layer("--data", nested("data.path", str(data))))
    settings = resolve(RecommendSettings, layers).settings
    place = resolve_device(device)
    interactions = load_data(settings.data.path)
    stored = load_checkpoint(path, state=False)
    check_data(stored, interactions, path)
    if settings.model.kind == "igdmrec":
        scorer: Scorer = stored_scorer(settings, interactions, stored, path, place)
        item_graph: sp.csr_array | None = stored_item_graph(stored, interactions.items)
    else:
        learner = make_learner(settings, interactions, place)
        learner.load_weights(stored, path)
        scorer, item_graph = learner.scorer(), learner.item_graph
    return Model(settings, interactions, scorer, stored.model, item_graph)


def _locate(checkpoint: Path) -> tuple[RunDirectory, Path]:
    """Find the run and the checkpoint that a path means."""
    if not checkpoint.exists():
        raise CheckpointError(f"{checkpoint}: no such run; name a folder below runs/recommend")
    if (checkpoint / "model.safetensors").is_file():
        return RunDirectory.open(checkpoint.resolve().parent.parent), checkpoint
    run = RunDirectory.open(checkpoint)
    return run, run.checkpoint(BEST)


def check_data(checkpoint: Checkpoint, data: RecommendData, path: Path) -> None:
    """Refuse data that the checkpoint was not trained on.

    Raises:
        CheckpointError: if the interactions differ.
    """
    if checkpoint.meta.get("data") != data.fingerprint():
        raise CheckpointError(
            f"{path}: trained on other interactions than those of '{data.name}'; "
            "give its own data set with --data"
        )
