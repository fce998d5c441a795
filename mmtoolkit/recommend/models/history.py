"""The history term: how similar an item is to what the user has, added to the inner product in ranking.

Representations of 64 numbers generalise, but cannot keep which pairs people really buy together. Two sparse
matrices can: shrunk cosines of co-occurrence (Sarwar et al. 2001) and the links of the item graph. They
are not trained.
"""

import numpy as np
import scipy.sparse as sp
import torch

from mmtoolkit.recommend.config import HistorySettings
from mmtoolkit.recommend.graphs.graph import cosine_neighbours
from mmtoolkit.recommend.models.learner import Embeddings, HistoryWeights, WithHistory


class History:
    """The weights between the items of a history and all items."""

    def __init__(self, train: sp.csr_array, settings: HistorySettings) -> None:
        """Compute the similarities by co-occurrence.

        Args:
            train: interactions, `(users, items)`.
            settings: of the term; with `weight` 0 nothing is computed.
        """
        self.train, self.settings = train, settings
        if settings.weight:
            self.together = cosine_neighbours(train, settings.neighbours, settings.shrinkage)

    def weights(self, item_graph: sp.csr_array) -> sp.csr_array:
        """Return weight * (cosines + graph_weight * item graph without its diagonal), `(items, items)`."""
        links = sp.csr_array(item_graph, copy=True)
        links.data[links.indices == np.repeat(np.arange(links.shape[0]), np.diff(links.indptr))] = 0
        links.eliminate_zeros()
        total = self.together + np.float32(self.settings.graph_weight) * links
        return sp.csr_array(np.float32(self.settings.weight) * total)

    def add_to(
        self, embeddings: Embeddings, item_graph: sp.csr_array, device: torch.device
    ) -> Embeddings | WithHistory:
        """Add the term to inner products, unless its weight is 0."""
        if not self.settings.weight:
            return embeddings
        return WithHistory(embeddings, HistoryWeights(self.train, self.weights(item_graph), device))
