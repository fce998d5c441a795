"""Full ranking over all items, and the metrics of the field (definitions of MMRec)."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmtoolkit.core.run import RunDirectory
from mmtoolkit.recommend.config import EvaluateSettings
from mmtoolkit.recommend.data.dataset import IntArray, RecommendData

SplitName = Literal["validation", "test"]
Scores = Callable[[IntArray], Tensor]
RANKED: tuple[SplitName, ...] = ("validation", "test")
"""Splits that are ranked."""

RANKED_ENTRIES = 2**27
"""Most scores of a block of users (512 MB in float32)."""


def rank_unseen(
    scores: Scores, seen: sp.csr_array, chosen: IntArray, k: int, batch_size: int
) -> Iterator[tuple[IntArray, Tensor, Tensor]]:
    """Rank all unseen items for some users, a block of users at a time.

    Args:
        scores: from ids of users `(block,)` to a new array `(block, items)`.
        seen: `(users, items)`, what must not be recommended.
        chosen: ids of the users to rank for.
        k: length of the lists (at most the number of items).
        batch_size: most users in a block, which also keeps to `RANKED_ENTRIES`.

    Yields:
        User ids `(block,)`, item ids and scores `(block, k)`, best first. If fewer than k items are
        unseen, the remaining scores are -inf.
    """
    k, step = min(k, seen.shape[1]), max(1, min(batch_size, RANKED_ENTRIES // seen.shape[1]))
    for start in range(0, len(chosen), step):
        block = chosen[start : start + step]
        values = scores(block)
        rows, columns = _entries(seen, block)
        values[rows.to(values.device), columns.to(values.device)] = -torch.inf
        best = values.topk(k, dim=1)
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


@dataclass(frozen=True)
class Lists:
    """Ranked lists of the users with a positive in a split.

    Attributes:
        users: their ids, `(users,)`.
        items: best unseen items, `(users, k)`, best first; -1 if fewer than k are unseen.
        hits: whether each of them is a positive, `(users, k)`.
        positives: number of positives of each user, `(users,)`.
    """

    users: IntArray
    items: IntArray
    hits: NDArray[np.bool_]
    positives: IntArray


def rank_split(scores: Scores, data: RecommendData, split: SplitName, settings: EvaluateSettings) -> Lists:
    """Rank all items for every user with a positive in a split.

    Training items are left out of the lists; on the test split `mask_validation` leaves out the
    validation items too.
    """
    truth = data.split(split)
    counts = np.diff(truth.indptr).astype(np.int64)
    chosen = np.flatnonzero(counts)
    seen = data.train
    if split == "test" and settings.mask_validation:
        seen = sp.csr_array(data.train + data.validation)
    items, hits = [], []
    for block, ranked, values in rank_unseen(scores, seen, chosen, settings.top_k[-1], settings.batch_size):
        relevant = torch.zeros(len(block), data.items, dtype=torch.bool, device=ranked.device)
        rows, columns = _entries(truth, block)
        relevant[rows.to(ranked.device), columns.to(ranked.device)] = True
        unseen = values.isfinite()
        hits.append((relevant.gather(1, ranked) & unseen).cpu().numpy())
        items.append(ranked.where(unseen, -1).cpu().numpy())
    return Lists(chosen, np.concatenate(items), np.concatenate(hits), counts[chosen])


def score_users(
    scores: Scores, data: RecommendData, split: SplitName, settings: EvaluateSettings
) -> dict[str, NDArray[np.float64]]:
    """Rank all items for every user with a positive in a split, and score each user's list.

    Returns:
        `user`, the ids, and one array for each metric, all `(users with a positive,)`.
    """
    return score_lists(rank_split(scores, data, split, settings), settings.top_k)


def score_lists(lists: Lists, cutoffs: Sequence[int]) -> dict[str, NDArray[np.float64]]:
    """Score ranked lists, see :func:`score_users`."""
    metrics = ranking_metrics(lists.hits, lists.positives, cutoffs)
    return {"user": lists.users.astype(np.float64), **metrics}


def means(scores: Mapping[str, NDArray[np.float64]]) -> dict[str, float]:
    """Average the metrics of :func:`score_users` over the users."""
    return {name: float(values.mean()) for name, values in scores.items() if name != "user"}


def write_user_scores(run: RunDirectory, split: SplitName, scores: Mapping[str, NDArray[np.float64]]) -> None:
    """Keep each user's metrics in `users_<split>.npz`, for paired comparisons between runs."""
    small: dict[str, Any] = {name: values.astype(np.float32) for name, values in scores.items()}
    small["user"] = scores["user"].astype(np.int64)
    np.savez_compressed(run.path / f"users_{split}.npz", **small)


def _entries(matrix: sp.csr_array, rows: IntArray) -> tuple[Tensor, Tensor]:
    """Return the places of the non-zeros of some rows, counted within those rows."""
    part = sp.csr_array(matrix[rows])
    counts = np.diff(part.indptr)
    index = np.repeat(np.arange(len(rows)), counts)
    return torch.from_numpy(index), torch.from_numpy(part.indices.astype(np.int64))
