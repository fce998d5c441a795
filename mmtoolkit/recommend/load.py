"""Load a trained run for evaluation and prediction."""

from dataclasses import dataclass
from pathlib import Path

import scipy.sparse as sp
import torch
from torch import Tensor

from mmtoolkit.core.checkpoint import (
    BEST,
    Checkpoint,
    find_checkpoint,
    load_checkpoint,
    matching_weights,
)
from mmtoolkit.core.config import Layer, config_layer, nested, resolve
from mmtoolkit.core.device import DeviceName, resolve_device
from mmtoolkit.core.errors import CheckpointError
from mmtoolkit.core.run import RunDirectory
from mmtoolkit.recommend.config import RecommendSettings
from mmtoolkit.recommend.data import RecommendData, load_data
from mmtoolkit.recommend.graph import Graph, user_item_graph
from mmtoolkit.recommend.model import Recommender


@dataclass(frozen=True)
class Model:
    """A trained recommender, ready to rank.

    Attributes:
        settings: of the run.
        data: the data set that it was trained on.
        users: representations, `(users, width)`.
        items: representations, `(items, width)`; the score is their inner product.
    """

    settings: RecommendSettings
    data: RecommendData
    users: Tensor
    items: Tensor


@torch.no_grad()
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
    recommender = Recommender(interactions.users, interactions.items, settings.model)
    item_graph = Graph.from_scipy(load_weights(recommender, stored, path), place)
    user_item = Graph.from_scipy(user_item_graph(interactions.train), place)
    users, items = recommender.to(place)(user_item, item_graph)
    return Model(settings, interactions, users, items)


def _locate(checkpoint: Path) -> tuple[RunDirectory, Path]:
    """Find the run and the checkpoint that a path means."""
    if not checkpoint.exists():
        raise CheckpointError(f"{checkpoint}: no such run; name a folder below runs/recommend")
    if (checkpoint / "model.safetensors").is_file():
        return RunDirectory.open(checkpoint.resolve().parent.parent), checkpoint
    run = RunDirectory.open(checkpoint)
    return run, find_checkpoint(run.checkpoints, BEST)


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


def load_weights(recommender: Recommender, checkpoint: Checkpoint, path: Path) -> sp.csr_array:
    """Fill the recommender from a checkpoint and return the item graph that belongs to it."""
    wanted = {f"recommender.{k}": v for k, v in recommender.state_dict().items()}
    weights = matching_weights(checkpoint.model, wanted, path)
    recommender.load_state_dict({k.partition(".")[2]: v for k, v in weights.items()})
    index = checkpoint.model["item_graph.index"].numpy()
    items = len(recommender.items)
    values = checkpoint.model["item_graph.weights"].numpy()
    return sp.csr_array((values, (index[0], index[1])), shape=(items, items))
