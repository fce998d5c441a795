"""New items and new users, served without training again.

A new item stands at the weighted mean of its nearest items by modality, in the trained item space. A new
user is folded in: where the model is linear, by the very sum that makes a trained user of a history.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor
from torch.nn import functional as F

from mmtoolkit.core.errors import DataError, UsageError
from mmtoolkit.recommend.data.dataset import FloatArray, IntArray
from mmtoolkit.recommend.evaluation.metrics import rank_unseen
from mmtoolkit.recommend.graphs.graph import BLOCK_ENTRIES, modality_weights
from mmtoolkit.recommend.load import Model
from mmtoolkit.recommend.models.learner import Embeddings, Scorer, WithHistory
from mmtoolkit.recommend.predict import ranked, representations
from mmtoolkit.recommend.serving.lists import Ranked
from mmtoolkit.recommend.serving.paths import linear_paths

RIDGE = 1e-2
"""Ridge penalty of the fitted fold-in, as a share of the mean squared length of the summed histories."""


@dataclass(frozen=True)
class NewItems:
    """Items that training never saw.

    Attributes:
        vectors: places in the trained item space, `(new, width)`.
        nearest: their nearest known items, `(new, k)` at most, with the weights in the mean as scores.
    """

    vectors: Tensor
    nearest: list[Ranked]


def place_items(model: Model, features: Mapping[str, FloatArray]) -> NewItems:
    """Place new items among the trained ones by their features.

    Each modality m that is there for an item gives weight phi_m / k to each of its k nearest known items
    by cosine (k = `graph.neighbours`); an item's weights are scaled to a sum of 1.

    Args:
        model: from :func:`mmtoolkit.recommend.load.load_model`.
        features: by modality, `(new, width)`; a row of zeros where nothing is known.

    Raises:
        UsageError: if the model has no embeddings.
        DataError: if a modality is unknown, has other widths or no features, or an item has none at all.
    """
    items = representations(model, "new-items")[1]
    weights = modality_weights(model.data.modalities, model.settings.data.modalities)
    known = {name: _unit(_known_features(model, name, rows), items) for name, rows in features.items()}
    new = {name: _unit(rows, items) for name, rows in features.items()}
    count = len(next(iter(features.values())))
    if not count:
        raise DataError("--features: holds no row, so there is no new item")
    vectors: list[Tensor] = []
    nearest: list[Ranked] = []
    for start in range(0, count, step := max(1, BLOCK_ENTRIES // len(items))):
        mixture = torch.zeros(min(step, count - start), len(items), device=items.device)
        for name, rows in new.items():
            block = rows[start : start + step]
            _add_nearest(mixture, block, known[name], model.settings.graph.neighbours, weights.get(name, 0))
        mixture /= _totals(mixture, start)
        best = mixture.topk(min(len(features) * model.settings.graph.neighbours, len(items)), dim=1)
        shown = best.values.where(best.values > 0, -torch.inf)
        vectors.append(mixture @ items)
        nearest += ranked(np.arange(start, start + len(mixture)), best.indices, shown)
    return NewItems(torch.cat(vectors), nearest)


def _unit(rows: FloatArray, like: Tensor) -> Tensor:
    return F.normalize(torch.from_numpy(rows).to(like), dim=1)


def _totals(mixture: Tensor, start: int) -> Tensor:
    total = mixture.sum(dim=1, keepdim=True)
    empty = torch.nonzero(total[:, 0] == 0)
    if len(empty):
        raise DataError(
            f"new item {start + int(empty[0])} (counted from 0) has no text or picture that tells its "
            "neighbours; leave it out"
        )
    return total


def _known_features(model: Model, name: str, rows: FloatArray) -> FloatArray:
    there = model.data.modalities.get(name)
    if there is None or there.features is None:
        have = ", ".join(n for n, m in model.data.modalities.items() if m.features is not None) or "none"
        raise DataError(f"the data set has no features of modality '{name}' (with features: {have})")
    if rows.shape[1] != there.features.shape[1]:
        raise DataError(
            f"modality '{name}': vectors of width {rows.shape[1]}, the data set has "
            f"{there.features.shape[1]}; encode with the same encoder"
        )
    return there.features


def _add_nearest(mixture: Tensor, new: Tensor, known: Tensor, k: int, phi: float) -> None:
    """Add phi / k at the k nearest known items of each new one."""
    scores = new @ known.T
    scores[:, ~known.any(dim=1)] = -2
    best = scores.topk(min(k, len(known)), dim=1)
    weight = (best.values > -2) & new.any(dim=1, keepdim=True)
    mixture.scatter_add_(1, best.indices, weight.to(mixture) * (phi / best.values.shape[1]))


def audience(model: Model, new: NewItems, top_k: int) -> Iterator[Ranked]:
    """Find the users who would like each new item best, by inner products alone: it is in no history yet."""
    users = representations(model, "new-items")[0]
    for start in range(0, len(new.vectors), step := max(1, BLOCK_ENTRIES // len(users))):
        block = new.vectors[start : start + step]
        best = (block @ users.T).topk(min(top_k, len(users)), dim=1)
        yield from ranked(np.arange(start, start + len(block)), best.indices, best.values)


@torch.no_grad()
def fold_in(
    model: Model, histories: Sequence[IntArray], top_k: int = 20, *, keep_seen: bool = False
) -> Iterator[Ranked]:
    """Recommend to users that training never saw.

    Args:
        model: from :func:`mmtoolkit.recommend.load.load_model`.
        histories: numbers of the known items that each new user has, at least one.
        top_k: length of the lists.
        keep_seen: also recommend items of the history.

    Yields:
        A list for each new user, whose key is the place in `histories`.
    """
    if not histories:
        return
    rows = _history_matrix(histories, model.data.items)
    seen = sp.csr_array(rows.shape, dtype=rows.dtype) if keep_seen else rows
    scores, batch = _newcomer_scorer(model, histories, rows).scores, model.settings.evaluate.batch_size
    for block, items, values in rank_unseen(scores, seen, np.arange(len(histories)), top_k, batch):
        yield from ranked(block, items, values)


def _newcomer_scorer(model: Model, histories: Sequence[IntArray], rows: sp.csr_array) -> Scorer:
    """Fold all users in at once, as the fit is the same for all; `rows` are the histories as a matrix."""
    remembered = None if model.history is None else replace(model.history, history=rows)
    if remembered is not None and model.items is None:
        return remembered
    items = representations(model, "new-users")[1]
    embeddings = Embeddings(fold_in_users(model, histories).to(items), items)
    return embeddings if remembered is None else WithHistory(embeddings, remembered)


def _history_matrix(histories: Sequence[IntArray], items: int) -> sp.csr_array:
    lengths = [len(history) for history in histories]
    ends = np.cumsum([0, *lengths])
    ones = np.ones(ends[-1], np.float32)
    return sp.csr_array((ones, np.concatenate(histories), ends), shape=(len(histories), items))


def fold_in_users(model: Model, histories: Sequence[IntArray]) -> Tensor:
    """Return representations of new users, `(users, width)`.

    igdmrec, freedom and lightgcn: the sum over the history that trained users are made of, less the share
    of their own embedding (none with `layer_combination: last`). Others: the ridge regression of the
    trained users on the mean item of their histories.

    Raises:
        UsageError: if the model has no embeddings, or no propagation to fold in with.
    """
    paths = linear_paths(model)
    if paths is None:
        return _regress_users(model, histories)
    if not paths.given.any():
        raise UsageError("new-users: model.layers 0 leaves nothing to fold in; train with at least one layer")
    vectors = np.stack([paths.history_vectors(history).sum(axis=0) for history in histories])
    return torch.from_numpy(vectors).float()


def _regress_users(model: Model, histories: Sequence[IntArray]) -> Tensor:
    users, items = (part.double().cpu().numpy() for part in representations(model, "new-users"))
    train = model.data.train
    lengths = np.maximum(np.diff(train.indptr), 1)[:, None]
    means = np.concatenate([(train @ items) / lengths, np.ones((len(users), 1))], axis=1)
    gram = means.T @ means
    penalty = RIDGE * np.trace(gram) / len(gram) * np.eye(len(gram))
    weights = np.linalg.solve(gram + penalty, means.T @ users)
    new = np.stack([np.append(items[history].mean(axis=0), 1.0) for history in histories])
    return torch.from_numpy(new @ weights).float()
