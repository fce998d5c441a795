"""Metrics beyond accuracy: coverage, novelty and variety of the lists, and results by group."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from mmtoolkit.recommend.data.dataset import IntArray, RecommendData
from mmtoolkit.recommend.evaluation.metrics import Lists, SplitName

BLOCK_USERS = 1024
GROUPS = 4
"""Groups of similar size that users and items are divided into."""

Vectors: TypeAlias = sp.csr_array | NDArray[np.float32]


def list_metrics(lists: Lists, data: RecommendData, cutoffs: Sequence[int]) -> dict[str, float]:
    """Measure the lists without the held-out items.

    Returns:
        For each cut-off: `coverage` (share of the items that are in some list), `gini` (0: every item is
        shown equally often, 1: a single item is shown), `novelty` (mean surprise of a shown item in bits,
        -log2 of the share of users who have it), `similarity` (mean cosine between the users of two items
        of a list) and `similarity_<modality>` (of their features, for modalities that have features).
    """
    popularity = np.asarray(data.train.sum(axis=0)).ravel()
    surprise = -np.log2((popularity + 1) / (data.users + 1))
    views = dict(_item_vectors(data))
    metrics = {}
    for k in cutoffs:
        shown = lists.items[:, :k]
        listed = shown[shown >= 0]
        exposure = np.bincount(listed, minlength=data.items)
        metrics[f"coverage@{k}"] = float((exposure > 0).mean())
        metrics[f"gini@{k}"] = gini(exposure)
        metrics[f"novelty@{k}"] = float(surprise[listed].mean())
        for name, vectors in views.items():
            metrics[f"{name}@{k}"] = intra_list_similarity(shown, vectors)
    return metrics


def _item_vectors(data: RecommendData) -> Iterator[tuple[str, Vectors]]:
    """Yield unit vectors of the items, `(items, any)`, by the name of their similarity."""
    users = sp.csr_array(data.train.T)
    scale = np.sqrt(np.maximum(1, np.diff(users.indptr))).astype(np.float32)
    yield "similarity", sp.csr_array(sp.diags_array(1 / scale) @ users)
    for name, modality in data.modalities.items():
        if modality.features is not None:
            length = np.linalg.norm(modality.features, axis=1, keepdims=True)
            yield f"similarity_{name}", modality.features / np.maximum(length, 1e-12)


def gini(amounts: IntArray) -> float:
    """Return the Gini coefficient of amounts, `(n,)`: 0 if all are equal, 1 - 1/n if all but one are 0."""
    ordered = np.sort(amounts)
    ranks = np.arange(1, len(ordered) + 1)
    return float(((2 * ranks - len(ordered) - 1) * ordered).sum() / max(1, len(ordered) * ordered.sum()))


def intra_list_similarity(shown: IntArray, vectors: Vectors) -> float:
    """Return the mean cosine over all pairs of each list, averaged over the lists (Ziegler et al. 2005).

    The cosines of a list's pairs sum to (|sum of its vectors|^2 - sum of their squares) / 2, so that the
    pairs themselves are never formed.

    Args:
        shown: item ids, `(users, k)`; -1 at the end of shorter lists.
        vectors: unit or zero vectors, `(items, any)`; sparse or dense.
    """
    squares = np.asarray((vectors * vectors).sum(axis=1)).ravel()
    values = []
    for start in range(0, len(shown), BLOCK_USERS):
        block = shown[start : start + BLOCK_USERS]
        rows, places = np.nonzero(block >= 0)
        items = block[rows, places]
        chosen = sp.csr_array((np.ones(len(rows), np.float32), (rows, items)), (len(block), len(squares)))
        total = chosen @ vectors
        length = np.asarray((total * total).sum(axis=1)).ravel()
        count = np.diff(chosen.indptr)
        pairs = np.where(count > 1, count * (count - 1), 1)
        values.append(((length - chosen @ squares) / pairs)[count > 1])
    every = np.concatenate(values)
    return float(every.mean()) if len(every) else 0.0


def user_groups(
    scores: Mapping[str, NDArray[np.float64]], data: RecommendData, k: int
) -> dict[str, dict[str, float]]:
    """Average recall and NDCG over groups of users with similar numbers of training items."""
    activity = np.diff(data.train.indptr)[scores["user"].astype(np.int64)]
    found = {}
    for name, inside in _equal_groups(activity, "training items"):
        of_group = {metric: float(scores[metric][inside].mean()) for metric in (f"recall@{k}", f"ndcg@{k}")}
        found[name] = {"users": int(inside.sum()), **of_group}
    return found


def item_groups(lists: Lists, data: RecommendData, split: SplitName, k: int) -> dict[str, dict[str, float]]:
    """Measure groups of items with similar numbers of training users.

    Returns:
        By group: `items`, `positives`, `recall@k` (share of the positives found, over all users) and
        `shown@k` (share of the list entries that belong to the group). Items without training users
        form the group `cold`.
    """
    popularity = np.bincount(data.train.indices, minlength=data.items)
    positives = np.bincount(data.split(split).indices, minlength=data.items)
    shown, hits = lists.items[:, :k], lists.hits[:, :k]
    found = np.bincount(shown[hits], minlength=data.items)
    exposure = np.bincount(shown[shown >= 0], minlength=data.items)
    groups = [("cold", popularity == 0), *_equal_groups(popularity, "training users")]
    return {
        name: {
            "items": int(inside.sum()),
            "positives": int(positives[inside].sum()),
            f"recall@{k}": float(found[inside].sum() / max(1, positives[inside].sum())),
            f"shown@{k}": float(exposure[inside].sum() / max(1, exposure.sum())),
        }
        for name, inside in groups
        if inside.any()
    }


def _equal_groups(counts: IntArray, what: str) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Divide everything with a count above 0 into groups of similar size; equal counts stay together."""
    edges = np.unique(np.quantile(counts[counts > 0], np.arange(1, GROUPS + 1) / GROUPS, method="higher"))
    low = 1
    for high in edges.tolist():
        inside = (counts >= low) & (counts <= high)
        yield f"{low}-{high} {what}" if low < high else f"{low} {what}", inside
        low = high + 1
