"""Full ranking over all items, and the metrics of the field (definitions of MMRec)."""

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmtoolkit.recommend.config import EvaluateSettings
from mmtoolkit.recommend.data import IntArray, RecommendData
from mmtoolkit.recommend.load import Model

SplitName = Literal["validation", "test"]
MEASURES = ("recall", "ndcg", "precision", "map")


def top_items(
    users: Tensor, items: Tensor, seen: sp.csr_array, chosen: IntArray, k: int, batch_size: int
) -> Iterator[tuple[IntArray, Tensor, Tensor]]:
    """Rank all unseen items for some users, a block of users at a time.

    Args:
        users: representations, `(users, width)`.
        items: representations, `(items, width)`.
        seen: `(users, items)`, what must not be recommended.
        chosen: ids of the users to rank for.
        k: length of the lists (at most the number of items).
        batch_size: users in a block.

    Yields:
        User ids `(block,)`, item ids and scores `(block, k)`, best first. Where fewer than k items are
        unseen, the scores behind them are -inf.
    """
    k = min(k, len(items))
    for start in range(0, len(chosen), batch_size):
        block = chosen[start : start + batch_size]
        scores = users[torch.from_numpy(block).to(users.device)] @ items.T
        rows, columns = _entries(seen, block)
        scores[rows.to(scores.device), columns.to(scores.device)] = -torch.inf
        best = scores.topk(k, dim=1)
        yield block, best.indices, best.values


def ranking_metrics(
    hits: NDArray[np.bool_], positives: IntArray, cutoffs: Sequence[int]
) -> dict[str, NDArray[np.float64]]:
    """Score ranked lists for each user.

    Recall is over all of a user's positives; the ideal DCG and the average precision are cut at
    min(positives, k).

    Args:
        hits: whether each ranked item is a positive, `(users, k)`, best first.
        positives: number of positives of each user, `(users,)`, at least 1.
        cutoffs: lengths k to score at; one beyond the lists scores the whole lists.

    Returns:
        `(users,)` for each of `recall@k`, `ndcg@k`, `precision@k`, `map@k`.
    """
    longest = max(cutoffs)
    hits = np.pad(hits, ((0, 0), (0, max(0, longest - hits.shape[1]))))[:, :longest]
    ranks = np.arange(1, longest + 1)
    found = hits.cumsum(axis=1)
    gain = (hits / np.log2(ranks + 1)).cumsum(axis=1)
    ideal = (1 / np.log2(ranks + 1)).cumsum()
    precise = (hits * found / ranks).cumsum(axis=1)
    scores = {}
    for k in cutoffs:
        best = np.minimum(positives, k)
        scores[f"recall@{k}"] = found[:, k - 1] / positives
        scores[f"ndcg@{k}"] = gain[:, k - 1] / ideal[best - 1]
        scores[f"precision@{k}"] = found[:, k - 1] / k
        scores[f"map@{k}"] = precise[:, k - 1] / best
    return scores


def score_users(
    users: Tensor, items: Tensor, data: RecommendData, split: SplitName, settings: EvaluateSettings
) -> dict[str, NDArray[np.float64]]:
    """Rank all items for every user with a positive in a split, and score each user's list.

    Training items are left out of the lists; on the test split `mask_validation` leaves out the
    validation items too.

    Returns:
        `user`, the ids, and one array for each metric, all `(users with a positive,)`.
    """
    truth = data.split(split)
    counts = np.diff(truth.indptr).astype(np.int64)
    chosen = np.flatnonzero(counts)
    seen = data.train
    if split == "test" and settings.mask_validation:
        seen = sp.csr_array(data.train + data.validation)
    parts = []
    for block, ranked, scores in top_items(
        users, items, seen, chosen, settings.top_k[-1], settings.batch_size
    ):
        relevant = torch.zeros(len(block), data.items, dtype=torch.bool, device=users.device)
        rows, columns = _entries(truth, block)
        relevant[rows.to(users.device), columns.to(users.device)] = True
        hits = relevant.gather(1, ranked) & scores.isfinite()
        parts.append(hits.cpu().numpy())
    metrics = ranking_metrics(np.concatenate(parts), counts[chosen], settings.top_k)
    return {"user": chosen.astype(np.float64), **metrics}


def mean_metrics(
    users: Tensor, items: Tensor, data: RecommendData, split: SplitName, settings: EvaluateSettings
) -> dict[str, float]:
    """Average :func:`score_users` over the users."""
    scores = score_users(users, items, data, split, settings)
    return {name: float(values.mean()) for name, values in scores.items() if name != "user"}


def evaluate(model: Model, split: SplitName) -> dict[str, float]:
    """Score a trained model on a split, with the cut-offs of its run."""
    return mean_metrics(model.users, model.items, model.data, split, model.settings.evaluate)


def _entries(matrix: sp.csr_array, rows: IntArray) -> tuple[Tensor, Tensor]:
    """Return the places of the non-zeros of some rows, counted within those rows."""
    part = sp.csr_array(matrix[rows])
    counts = np.diff(part.indptr)
    index = np.repeat(np.arange(len(rows)), counts)
    return torch.from_numpy(index), torch.from_numpy(part.indices.astype(np.int64))
