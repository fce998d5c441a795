"""The linear paths from a user's items to the recommended ones.

A user of LightGCN is a weighted sum of what the user's items pass on in the earlier layers. The
representation of an item is its collaborative part plus a weighted sum over its neighbours in the item
graph. Both sums can be split into their terms, and the first one also works for a user that training
never saw.
"""

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from mmtoolkit.recommend.data.dataset import IntArray
from mmtoolkit.recommend.graphs.graph import user_item_graph
from mmtoolkit.recommend.load import Model

DoubleArray = NDArray[np.float64]
LINEAR_KINDS = ("igdmrec", "freedom", "lightgcn")


@dataclass(frozen=True)
class LinearPaths:
    """The parts of a score u . i, in float64.

    Attributes:
        own: part of u that is the user's own embedding, `(users, width)`.
        passed: what an item passes to the users who have it, `(items, width)`: u is `own` plus the sum of
            `passed` over the history, each weighted by 1 / sqrt(length of the history x buyers of the item).
        buyers: number of training users of each item, `(items,)`.
        collaborative: i without its neighbours, `(items, width)`.
        neighbours: what an item passes to its neighbours in the item graph, `(items, width)`.
        item_graph: `(items, items)`: i is `collaborative` plus item_graph @ `neighbours`.
    """

    own: DoubleArray
    passed: DoubleArray
    buyers: DoubleArray
    collaborative: DoubleArray
    neighbours: DoubleArray
    item_graph: sp.csr_array

    @property
    def items(self) -> DoubleArray:
        """Representations of all items, `(items, width)`."""
        items: DoubleArray = self.collaborative + self.item_graph @ self.neighbours
        return items

    def history_vectors(self, history: IntArray) -> DoubleArray:
        """Return what each item of a history adds to its user, `(history, width)`."""
        degrees = np.maximum(self.buyers[history] * len(history), 1)
        return self.passed[history] / np.sqrt(degrees)[:, None]


def linear_paths(model: Model) -> LinearPaths | None:
    """Split a model into linear parts; None if it is not linear in its embeddings and graphs."""
    settings = model.settings
    if settings.model.kind not in LINEAR_KINDS:
        return None
    users = model.weights["recommender.users"].double().cpu().numpy()
    items = model.weights["recommender.items"].double().cpu().numpy()
    graph = user_item_graph(model.data.train.astype(np.float64))
    layers = [np.concatenate([users, items])]
    for _ in range(settings.model.layers):
        layers.append(graph @ layers[-1])
    share = np.full(len(layers), 1 / len(layers))  # weight of each layer in the representation
    if settings.model.layer_combination == "last":
        share = np.eye(len(layers))[-1]
    final = np.tensordot(share, np.stack(layers), axes=1)
    # layer l of a user is the normalised sum of layer l - 1 of the user's items, hence the shift by one
    passed = np.tensordot(share[1:], np.reshape(layers[:-1], (-1, *final.shape)), axes=1)
    item_graph, near = model.item_graph, items
    if settings.model.kind == "freedom":
        for _ in range(settings.peers.freedom_item_layers - 1):
            near = item_graph @ near
        if not settings.peers.freedom_item_layers:
            item_graph = sp.eye_array(len(items), format="csr")
    if item_graph is None:
        item_graph = sp.csr_array((len(items), len(items)))
    count = len(users)
    buyers = np.asarray(model.data.train.sum(axis=0), np.float64).ravel()
    return LinearPaths(
        share[0] * users, passed[count:], buyers, final[count:], near, sp.csr_array(item_graph)
    )
