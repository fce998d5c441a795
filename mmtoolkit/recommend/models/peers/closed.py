"""Peers with a closed form: popularity, item k-NN and EASE."""

from pathlib import Path

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from mmtoolkit.core.checkpoint import Checkpoint, matching_weights
from mmtoolkit.core.errors import RunError
from mmtoolkit.core.run import total_memory
from mmtoolkit.recommend.graphs.graph import cosine_neighbours
from mmtoolkit.recommend.models.learner import HistoryWeights, Learner, Loop, SameForAll


class ClosedForm(Learner):
    """A model without gradients: one epoch fits it."""

    def loss(self, batch: Tensor) -> Tensor:
        """Raise an error: a closed form has no loss."""
        raise NotImplementedError


class Popularity(ClosedForm):
    """Rank by the number of training users of an item."""

    counts: Tensor

    def begin_epoch(self, loop: Loop) -> dict[str, float]:
        """Count."""
        with loop.clock("fit"):
            counts = np.asarray(self.data.train.sum(axis=0)).ravel()
            self.counts = torch.from_numpy(counts.astype(np.float32)).to(self.device)
        return {}

    def scorer(self) -> SameForAll:
        """Return the counts as the scores of every user."""
        return SameForAll(self.counts)

    def weights(self) -> dict[str, Tensor]:
        """Return the counts."""
        return {"counts": self.counts}

    def load_weights(self, checkpoint: Checkpoint, path: Path) -> None:
        """Load the counts."""
        wanted = {"counts": torch.empty(self.data.items)}
        self.counts = matching_weights(checkpoint.model, wanted, path)["counts"].to(self.device)


class ItemKnn(ClosedForm):
    """Item-based collaborative filtering (Sarwar et al. 2001) with shrunk cosines of the columns of R."""

    similar: sp.csr_array

    def begin_epoch(self, loop: Loop) -> dict[str, float]:
        """Find the most similar items of each item."""
        peers = self.settings.peers
        with loop.clock("fit"):
            self.similar = cosine_neighbours(self.data.train, peers.knn_neighbours, peers.knn_shrinkage)
        return {}

    def scorer(self) -> HistoryWeights:
        """Score an item by its similarities to those of the user's items that are among its neighbours."""
        return HistoryWeights(self.data.train, sp.csr_array(self.similar.T), self.device)

    def weights(self) -> dict[str, Tensor]:
        """Return the similarities."""
        coo = self.similar.tocoo()
        return {
            "similar.index": torch.from_numpy(np.stack([coo.row, coo.col]).astype(np.int32)),
            "similar.weights": torch.from_numpy(coo.data),
        }

    def load_weights(self, checkpoint: Checkpoint, path: Path) -> None:
        """Load the similarities."""
        wanted = {
            name: checkpoint.model.get(name, torch.empty(0)) for name in ("similar.index", "similar.weights")
        }
        stored = matching_weights(checkpoint.model, wanted, path)
        rows, columns = stored["similar.index"].numpy()
        values, items = stored["similar.weights"].numpy(), self.data.items
        self.similar = sp.csr_array((values, (rows, columns)), shape=(items, items))


class Ease(ClosedForm):
    """EASE (Steck 2019, "Embarrassingly Shallow Autoencoders for Sparse Data")."""

    item_weights: Tensor

    def begin_epoch(self, loop: Loop) -> dict[str, float]:
        """Solve for the item weights."""
        with loop.clock("fit"):
            check_memory(self.data.items)
            self.item_weights = ease_weights(self.data.train, self.settings.peers.ease_ridge).to(self.device)
        return {}

    def scorer(self) -> HistoryWeights:
        """Return R B."""
        return HistoryWeights(self.data.train, self.item_weights, self.device)

    def weights(self) -> dict[str, Tensor]:
        """Return B."""
        return {"item_weights": self.item_weights}

    def load_weights(self, checkpoint: Checkpoint, path: Path) -> None:
        """Load B."""
        items = self.data.items
        wanted = {"item_weights": torch.empty(items, items, device="meta")}
        stored = matching_weights(checkpoint.model, wanted, path)
        self.item_weights = stored["item_weights"].to(self.device)


def ease_weights(train: sp.csr_array, ridge: float) -> Tensor:
    """Solve min ||R - R B||^2 + ridge ||B||^2 with a zero diagonal (Steck 2019, eq. 8).

    With P = (R^T R + ridge I)^-1, B_ij = -P_ij / P_jj off the diagonal.

    Args:
        train: R, `(users, items)`.
        ridge: L2 penalty lambda.

    Returns:
        B, `(items, items)`; a user's scores are that user's row of R times B.
    """
    gram = torch.from_numpy((train.T @ train).toarray()).float()
    gram.diagonal().add_(ridge)
    # in place from here on: the arrays have items x items entries
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram))
    del gram
    weights = inverse.div_(-inverse.diagonal().clone())
    weights.fill_diagonal_(0)
    return weights


def check_memory(items: int) -> None:
    """Refuse a catalogue that does not fit into memory: EASE needs three `(items, items)` arrays.

    Raises:
        RunError: if the machine has less memory.
    """
    memory, needed = total_memory(), 3 * 4 * items**2
    if memory is not None and needed > memory:
        raise RunError(
            f"ease: {items:,} items need {needed / 2**30:.0f} GiB, this machine has {memory / 2**30:.0f}; "
            "use model.kind item-knn for as many items"
        )
