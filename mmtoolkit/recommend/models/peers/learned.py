"""Peers that learn embeddings from triples: BPR-MF, LightGCN, VBPR and FREEDOM."""

from collections.abc import Mapping

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmtoolkit.core.errors import DataError
from mmtoolkit.core.logging import logger
from mmtoolkit.recommend.config import RecommendSettings
from mmtoolkit.recommend.data.dataset import RecommendData
from mmtoolkit.recommend.graphs.graph import (
    Graph,
    modality_weights,
    normalise_symmetric,
    semantic_graph,
    user_item_graph,
)
from mmtoolkit.recommend.models.learner import Embeddings, Learner, Loop, adam, pick
from mmtoolkit.recommend.models.losses import bpr_loss, embedding_penalty
from mmtoolkit.recommend.models.networks import Recommender


class BprMf(Learner):
    """Matrix factorisation with the BPR loss (Rendle et al. 2009)."""

    recommender: Recommender

    def __init__(self, settings: RecommendSettings, data: RecommendData, device: torch.device) -> None:
        """Draw the embeddings."""
        super().__init__(settings, data, device)
        self.recommender = Recommender(data.users, data.items, settings.model).to(device)
        self.optimizers["recommender"] = adam(self.recommender, settings.train.learning_rate)

    def representations(self) -> tuple[Tensor, Tensor]:
        """Return the embeddings `(users, width)` and `(items, width)`."""
        return self.recommender.users, self.recommender.items

    def loss(self, batch: Tensor) -> Tensor:
        """Return the BPR loss plus the penalty on the embeddings in use."""
        loss = bpr_loss(*pick(batch, *self.representations()))
        used = pick(batch, self.recommender.users, self.recommender.items)
        return loss + self.settings.train.embedding_penalty * embedding_penalty(*used)

    @torch.no_grad()
    def scorer(self) -> Embeddings:
        """Return the representations of users and items."""
        users, items = self.representations()
        return Embeddings(users.detach(), items.detach())


class LightGcn(BprMf):
    """LightGCN (He et al. 2020): embeddings propagated on the user-item graph."""

    def __init__(self, settings: RecommendSettings, data: RecommendData, device: torch.device) -> None:
        """Draw the embeddings and build the graph."""
        super().__init__(settings, data, device)
        self.user_item = Graph.from_scipy(user_item_graph(data.train), device)

    def representations(self) -> tuple[Tensor, Tensor]:
        """Return the propagated embeddings."""
        return self.recommender.collaborative(self.user_item)


class Vbpr(Learner):
    """VBPR (He and McAuley 2016, eq. 4) on the features of all weighted modalities."""

    recommender: "VisualFactors"

    def __init__(self, settings: RecommendSettings, data: RecommendData, device: torch.device) -> None:
        """Draw the factors.

        Raises:
            DataError: if a weighted modality has no features.
        """
        super().__init__(settings, data, device)
        weights = modality_weights(data.modalities, settings.data.modalities)
        found = unit_features(data, weights)
        missing = [name for name in weights if name not in found]
        if missing:
            raise DataError(
                f"vbpr: modality '{missing[0]}' has neighbour lists but no features; "
                f"add {missing[0]}_feat.npy or use model.kind freedom"
            )
        features = torch.cat([weights[name] ** 0.5 * x for name, x in found.items()], dim=1).to(device)
        self.recommender = VisualFactors(data.users, features, settings.model.embedding).to(device)
        self.optimizers["recommender"] = adam(self.recommender, settings.train.learning_rate)

    def loss(self, batch: Tensor) -> Tensor:
        """Return the BPR loss plus the penalty on the representations in use."""
        used = pick(batch, *self.recommender())
        return bpr_loss(*used) + self.settings.train.embedding_penalty * embedding_penalty(*used)

    @torch.no_grad()
    def scorer(self) -> Embeddings:
        """Return the representations of users and items."""
        return Embeddings(*self.recommender())


class VisualFactors(nn.Module):
    """Latent and visual factors, and biases, as one inner product (VBPR, eq. 4)."""

    features: Tensor

    def __init__(self, users: int, features: Tensor, width: int) -> None:
        """Draw factors of half the `width` each, so that all peers have the same number of weights."""
        super().__init__()
        items, size = features.shape
        latent, visual = width - width // 2, max(1, width // 2)
        self.register_buffer("features", features, persistent=False)
        self.users = nn.Parameter(torch.empty(users, latent + visual))
        self.items = nn.Parameter(torch.empty(items, latent))
        self.project = nn.Parameter(torch.empty(size, visual))
        self.bias = nn.Parameter(torch.zeros(items, 1))
        self.visual_bias = nn.Parameter(torch.zeros(size, 1))
        for weight in (self.users, self.items, self.project):
            nn.init.xavier_uniform_(weight)

    def forward(self) -> tuple[Tensor, Tensor]:
        """Return `(users, width + 1)` and `(items, width + 1)`, the last column for the biases."""
        ones = torch.ones(len(self.users), 1, device=self.users.device)
        bias = self.bias + self.features @ self.visual_bias
        items = torch.cat([self.items, self.features @ self.project, bias], dim=1)
        return torch.cat([self.users, ones], dim=1), items


class Freedom(Learner):
    """FREEDOM (Zhou and Shen 2023): a frozen item graph, and sampled user-item edges in each epoch."""

    recommender: "FreedomWeights"
    item_graph: sp.csr_array

    def __init__(self, settings: RecommendSettings, data: RecommendData, device: torch.device) -> None:
        """Build the graphs and draw the weights."""
        super().__init__(settings, data, device)
        semantic = semantic_graph(data, settings.data, settings.graph.neighbours, device)
        self.item_graph = normalise_symmetric(semantic)
        self.item_propagation = Graph.from_scipy(self.item_graph, device)
        self.user_item = Graph.from_scipy(user_item_graph(data.train), device)
        self.thinned = self.user_item
        self.features = self._features()
        self.recommender = FreedomWeights(data.users, data.items, settings, self.features).to(device)
        self.optimizers["recommender"] = adam(self.recommender, settings.train.learning_rate)

    def _features(self) -> dict[str, Tensor]:
        if not self.settings.peers.freedom_modality_weight:
            return {}
        weights = modality_weights(self.data.modalities, self.settings.data.modalities)
        found = unit_features(self.data, weights)
        if missing := [name for name in weights if name not in found]:
            logger.info("freedom: no features of %s, so no loss on their projection", ", ".join(missing))
        return {name: x.to(self.device) for name, x in found.items()}

    def begin_epoch(self, loop: Loop) -> dict[str, float]:
        """Draw the user-item edges of this epoch (section 3.2 of the paper)."""
        with loop.clock("thinning"):
            thinned = thin_edges(self.data.train, self.settings.peers.freedom_kept_edges)
            self.thinned = Graph.from_scipy(user_item_graph(thinned), self.device)
        return {"user_item_edges": float(thinned.nnz)}

    def representations(self, user_item: Graph) -> tuple[Tensor, Tensor]:
        """Return users and items; the items include the propagation on the frozen graph."""
        users, items = self.recommender.collaborative(user_item)
        near: Tensor = self.recommender.items
        for _ in range(self.settings.peers.freedom_item_layers):
            near = self.item_propagation.propagate(near)
        return users, items + near

    def loss(self, batch: Tensor) -> Tensor:
        """Return the BPR loss of the embeddings, of the projected features, and the embedding penalty."""
        users, items = self.representations(self.thinned)
        user, positive, negative = pick(batch, users, items)
        loss = bpr_loss(user, positive, negative)
        for name, features in self.features.items():
            shown = self.recommender.project[name](features[batch[:, 1:]])
            modal = bpr_loss(user, shown[:, 0], shown[:, 1])
            loss = loss + self.settings.peers.freedom_modality_weight * modal
        used = pick(batch, self.recommender.users, self.recommender.items)
        return loss + self.settings.train.embedding_penalty * embedding_penalty(*used)

    @torch.no_grad()
    def scorer(self) -> Embeddings:
        """Return the representations on the whole user-item graph."""
        return Embeddings(*self.representations(self.user_item))

    def sizes(self) -> dict[str, int]:
        """Count the edges of the item graph."""
        return {"semantic_edges": self.item_graph.nnz}


class FreedomWeights(Recommender):
    """Embeddings as LightGCN's, and a projection of each modality's features."""

    def __init__(
        self, users: int, items: int, settings: RecommendSettings, features: Mapping[str, Tensor]
    ) -> None:
        """Draw the embeddings and the projections."""
        super().__init__(users, items, settings.model)
        width = settings.model.embedding
        self.project = nn.ModuleDict({name: nn.Linear(x.shape[1], width) for name, x in features.items()})


def unit_features(data: RecommendData, names: Mapping[str, float]) -> dict[str, Tensor]:
    """Return the features of the named modalities that have some, each row of length 1."""
    found = {}
    for name in names:
        features = data.modalities[name].features
        if features is not None:
            found[name] = F.normalize(torch.from_numpy(features), dim=1)
    return found


def thin_edges(train: sp.csr_array, kept: float) -> sp.csr_array:
    """Draw edges without replacement, with lower probability for popular items and active users.

    An edge's weight is 1 / sqrt(degree of its user x degree of its item) (FREEDOM, eq. 7).

    Args:
        train: `(users, items)`.
        kept: fraction of the edges to draw.
    """
    coo = train.tocoo()
    users = np.diff(train.indptr)
    items = np.bincount(coo.col, minlength=train.shape[1])
    weight = torch.from_numpy(1 / np.sqrt(users[coo.row] * items[coo.col]))
    # with exponential times of these rates, the first arrivals are a weighted draw without replacement
    arrival = torch.empty_like(weight).exponential_() / weight
    chosen = arrival.topk(max(1, round(kept * len(weight))), largest=False).indices.numpy()
    values = np.ones(len(chosen), np.float32)
    return sp.csr_array((values, (coo.row[chosen], coo.col[chosen])), shape=train.shape)
