"""IGDMRec in training: an epoch trains CD-Net, denoises the item graph, and trains the recommender on it."""

from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from mmtoolkit.core.checkpoint import Checkpoint
from mmtoolkit.recommend.config import RecommendSettings
from mmtoolkit.recommend.data.dataset import RecommendData
from mmtoolkit.recommend.graphs.graph import (
    Graph,
    behaviour_graph,
    edge_purity,
    normalise_symmetric,
    semantic_graph,
    user_item_graph,
    weighted_list_graph,
)
from mmtoolkit.recommend.models.diffusion import denoised_lists, training_loss
from mmtoolkit.recommend.models.history import History
from mmtoolkit.recommend.models.learner import Embeddings, Learner, Loop, WithHistory, adam, load_module, pick
from mmtoolkit.recommend.models.losses import bpr_loss, embedding_penalty, info_nce
from mmtoolkit.recommend.models.networks import CDNet, Recommender
from mmtoolkit.recommend.models.schedule import Schedule
from mmtoolkit.recommend.models.search import EXACT_UP_TO


class Igdmrec(Learner):
    """Both networks and the three item graphs; with `item_graph: semantic`, only the recommender."""

    recommender: Recommender
    item_graph: sp.csr_array

    def __init__(self, settings: RecommendSettings, data: RecommendData, device: torch.device) -> None:
        """Build the graphs and draw the networks."""
        super().__init__(settings, data, device)
        self.semantic = semantic_graph(data, settings.data, settings.graph.neighbours, device)
        self.behaviour = condition_rows(settings, data)
        self.schedule = Schedule.from_settings(settings.diffusion, device)
        self.net = None
        if settings.model.item_graph == "denoised":
            self.net = CDNet(data.items, settings.diffusion, getattr(torch, settings.precision)).to(device)
        self.recommender = Recommender(data.users, data.items, settings.model).to(device)
        self.optimizers["recommender"] = adam(self.recommender, settings.train.learning_rate)
        if self.net is not None:
            self.optimizers["cdnet"] = adam(self.net, settings.diffusion.learning_rate)
        self.user_item = Graph.from_scipy(user_item_graph(data.train), device)
        self.history = History(data.train, settings.history)
        self.item_graph = self.semantic_normalised = normalise_symmetric(self.semantic)
        self._semantic_propagation = Graph.from_scipy(self.item_graph, device)
        self._use(self.item_graph)

    def begin_epoch(self, loop: Loop) -> dict[str, float]:
        """Train CD-Net for some passes and denoise the item graph with it."""
        if self.net is None:
            return {}
        return self.train_diffusion(self.net, loop) | self.denoise_graph(self.net, loop)

    def train_diffusion(self, net: CDNet, loop: Loop) -> dict[str, float]:
        """Train CD-Net for some passes over the rows of the semantic graph."""
        settings, items = self.settings.diffusion, self.data.items
        net.train()
        losses = []
        with loop.clock("diffusion"):
            for _ in range(settings.passes):
                for rows in torch.randperm(items).split(settings.batch_of(items)):
                    graphs, chosen = (self.semantic, self.behaviour), np.sort(rows.numpy())
                    loss = training_loss(net, self.schedule, *graphs, chosen, settings, loop.workers)
                    losses.append(loop.step("cdnet", self.optimizers["cdnet"], loss))
        return {"loss_diffusion": float(np.mean(losses))}

    def denoise_graph(self, net: CDNet, loop: Loop) -> dict[str, float]:
        """Replace the item graph by the denoised one, and return how much of the semantic graph it keeps."""
        graph = self.settings.graph
        net.eval()
        with loop.clock("denoising"):
            many = self.data.items > EXACT_UP_TO
            search_candidates = graph.search == "candidates" or (graph.search == "auto" and many)
            lists, scores, recall = denoised_lists(
                net,
                self.schedule,
                self.semantic,
                self.behaviour,
                self.settings.diffusion.guidance,
                graph.denoised_neighbours,
                search_candidates=search_candidates,
            )
            denoised = weighted_list_graph(lists, scores, graph.denoised_weights)
            share = np.float32(graph.semantic_share)
            mixture = (1 - share) * normalise_symmetric(denoised) + share * self.semantic_normalised
            self._use(sp.csr_array(mixture))
        kept = (denoised != 0).multiply(self.semantic != 0).nnz / max(1, self.semantic.nnz)
        facts = {"kept_semantic_edges": kept}
        if search_candidates:
            facts["search_recall"] = recall
        if self.data.groups is not None:
            facts["purity_denoised"] = edge_purity(denoised, self.data.groups)
        return facts

    def _use(self, item_graph: sp.csr_array) -> None:
        self.item_graph = item_graph
        self._propagation = Graph.from_scipy(item_graph, self.device)

    def loss(self, batch: Tensor) -> Tensor:
        """Return the BPR loss, the embedding penalty and the contrastive term (step 6 of the method)."""
        settings, recommender = self.settings.train, self.recommender
        users, items = recommender.collaborative(self.user_item)
        view = items + self._propagation.propagate(recommender.items)
        user, positive, negative = pick(batch, users, view)
        loss = bpr_loss(user, positive, negative)
        loss = loss + settings.embedding_penalty * embedding_penalty(user, positive, negative)
        contrasted = self.net is not None or settings.contrast_on_semantic
        if contrasted and settings.contrast_weight:
            other = items + self._semantic_propagation.propagate(recommender.items)
            in_batch = settings.contrast_with == "batch"
            contrast = info_nce(view, other, batch[:, 1], settings.contrast_temperature, in_batch=in_batch)
            loss = loss + settings.contrast_weight * contrast
        return loss

    @torch.no_grad()
    def scorer(self) -> Embeddings | WithHistory:
        """Return the representations of users and items, and the history term if there is one."""
        embeddings = Embeddings(*self.recommender(self.user_item, self._propagation))
        return self.history.add_to(embeddings, self.item_graph, self.device)

    def weights(self) -> dict[str, Tensor]:
        """Return the embeddings and the item graph that they were trained on."""
        graph = self.item_graph.tocoo()
        return super().weights() | {
            "item_graph.index": torch.from_numpy(np.stack([graph.row, graph.col]).astype(np.int32)),
            "item_graph.weights": torch.from_numpy(graph.data.astype(np.float32)),
        }

    def load_weights(self, checkpoint: Checkpoint, path: Path) -> None:
        """Load the embeddings and their item graph from a checkpoint."""
        super().load_weights(checkpoint, path)
        self._use(stored_item_graph(checkpoint, self.data.items))

    def state(self) -> dict[str, Any]:
        """Return the weights of CD-Net."""
        return {"cdnet": {} if self.net is None else self.net.state_dict()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Load the weights of CD-Net."""
        if self.net is not None:
            self.net.load_state_dict(state["cdnet"])

    def sizes(self) -> dict[str, int]:
        """Return the numbers of edges of the graphs and of steps of CD-Net in an epoch."""
        settings = self.settings.diffusion
        facts = {
            "semantic_edges": self.semantic.nnz,
            "behaviour_edges": self.behaviour.nnz - self.data.items,
        }
        if self.net is not None:
            items = self.data.items
            facts["steps_cdnet"] = settings.passes * -(-items // settings.batch_of(items))
        return facts

    def purities(self) -> dict[str, float]:
        """Return the share of each item graph's edges within a known group."""
        groups = self.data.groups
        if groups is None:
            return {}
        facts = {
            "purity_semantic": edge_purity(self.semantic, groups),
            "purity_behaviour": edge_purity(self.behaviour, groups),
        }
        if self.net is not None:
            facts["purity_denoised"] = edge_purity(self.item_graph, groups)
        return facts


def condition_rows(settings: RecommendSettings, data: RecommendData) -> sp.csr_array:
    """Return the conditions of the diffusion, `(items, items)`: the behavioural graph, or an empty matrix."""
    if settings.graph.behaviour_condition:
        return behaviour_graph(data.train, settings.graph)
    return sp.csr_array((data.items, data.items), dtype=np.float32)


@torch.no_grad()
def stored_scorer(
    settings: RecommendSettings,
    data: RecommendData,
    checkpoint: Checkpoint,
    path: Path,
    device: torch.device,
) -> Embeddings | WithHistory:
    """Return what ranks with a checkpoint, without the graphs and the network that only training needs."""
    recommender = Recommender(data.users, data.items, settings.model)
    load_module(recommender, checkpoint, path)
    item_graph = stored_item_graph(checkpoint, data.items)
    user_item = Graph.from_scipy(user_item_graph(data.train), device)
    embeddings = Embeddings(*recommender.to(device)(user_item, Graph.from_scipy(item_graph, device)))
    return History(data.train, settings.history).add_to(embeddings, item_graph, device)


def stored_item_graph(checkpoint: Checkpoint, items: int) -> sp.csr_array:
    """Return the item graph that a checkpoint's embeddings were trained on."""
    index = checkpoint.model["item_graph.index"].numpy()
    values = checkpoint.model["item_graph.weights"].numpy()
    return sp.csr_array((values, (index[0], index[1])), shape=(items, items))
