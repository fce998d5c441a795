"""Filters and splits of interactions: ratings, duplicates, k-core, and the usual splits of the field."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from mmtoolkit.core.errors import DataError
from mmtoolkit.recommend.data.dataset import SPLITS, IntArray
from mmtoolkit.recommend.prepare.config import FilterSettings, SplitSettings
from mmtoolkit.recommend.prepare.interactions import DoubleArray, Interactions

TRAIN, VALIDATION, TEST = 0, 1, 2


def filter_interactions(raw: Interactions, settings: FilterSettings) -> tuple[Interactions, dict[str, int]]:
    """Drop low ratings, then duplicates, then users and items with too few interactions.

    Returns:
        The remaining interactions, and the number that each filter dropped.

    Raises:
        DataError: if no interaction remains, or the rating filter has no ratings.
    """
    kept = raw
    if settings.min_rating is not None:
        if raw.rating is None:
            raise DataError("filter.min_rating needs a rating column; name it with `rating_column`")
        kept = kept.pick(raw.rating >= settings.min_rating)
    rated = len(kept)
    kept = kept.pick(distinct_pairs(kept, settings.duplicates))
    distinct = len(kept)
    kept = kept.pick(k_core(kept.users, kept.items, settings.user_core, settings.item_core))
    dropped = {
        "low_rating": len(raw) - rated,
        "repeated": rated - distinct,
        "outside_core": distinct - len(kept),
    }
    if not len(kept):
        raise DataError(
            f"no interaction is left of {len(raw)} (dropped: {dropped}); "
            "lower `user_core`, `item_core` or `min_rating`"
        )
    return kept, dropped


def distinct_pairs(table: Interactions, keep: str) -> IntArray:
    """Return the indices of one interaction for each pair of user and item, in the order of the file.

    Args:
        table: the interactions.
        keep: `first` or `last`, by time if known, then by position in the file.
    """
    positions = np.arange(len(table))
    time = np.zeros(len(table)) if table.time is None else table.time
    sign = 1 if keep == "first" else -1
    order = np.lexsort((sign * positions, sign * time, table.items, table.users))
    users, items = table.users[order], table.items[order]
    new = np.ones(len(table), bool)
    new[1:] = (users[1:] != users[:-1]) | (items[1:] != items[:-1])
    return np.sort(order[new])


def k_core(users: IntArray, items: IntArray, user_core: int, item_core: int) -> NDArray[np.bool_]:
    """Mark the largest set of interactions in which every user and item has enough; it may be empty."""
    keep = np.ones(len(users), bool)
    while True:
        by_user = np.bincount(users[keep], minlength=1 + users.max(initial=0))
        by_item = np.bincount(items[keep], minlength=1 + items.max(initial=0))
        smaller = keep & (by_user[users] >= user_core) & (by_item[items] >= item_core)
        if (smaller == keep).all():
            return keep
        keep = smaller


def split_interactions(
    table: Interactions, settings: SplitSettings, seed: int
) -> tuple[Interactions, IntArray, int]:
    """Label every interaction, and drop users without training interactions.

    Returns:
        The remaining interactions, their labels (0 train, 1 validation, 2 test), `(n,)`, and the number of
        dropped users.

    Raises:
        DataError: if the kind of split needs a column that the file lacks, or a split is empty.
    """
    labels = SPLITTERS[settings.kind](table, settings.ratio, seed)
    trained = np.zeros(len(table.user_names), bool)
    trained[table.users[labels == TRAIN]] = True
    kept_rows = trained[table.users]
    labels = labels[kept_rows]
    for number, name in enumerate(SPLITS):
        if not (labels == number).any():
            raise DataError(
                f"the {name} split would be empty ({len(table)} interactions, {settings.kind}); "
                "choose another `split`, or add interactions"
            )
    kept = table.pick(kept_rows)
    full = np.bincount(kept.users[labels == TRAIN]) == len(kept.item_names)
    if full.any():
        name = kept.user_names[int(np.flatnonzero(full)[0])]
        raise DataError(
            f"user '{name}' has every item in training, so nothing can be recommended; remove that user"
        )
    return kept, labels, int((~trained).sum())


def random_labels(table: Interactions, ratio: Sequence[int], seed: int) -> IntArray:
    """Hold out a random share of each user's interactions, except for users with fewer than three."""
    draws = np.random.default_rng(seed).random(len(table))
    order, rank, counts = _ranks(table.users, draws)
    test = _held_out(counts, ratio[2] / sum(ratio), 2)
    validation = np.minimum(_held_out(counts, ratio[1] / sum(ratio), 2), np.maximum(counts - 1 - test, 0))
    labels = np.zeros(len(table), np.int64)
    labels[order] = np.where(rank < test, TEST, np.where(rank < test + validation, VALIDATION, TRAIN))
    return labels


def _held_out(counts: IntArray, share: float, reserve: int) -> IntArray:
    """Return the rounded share of each count, at least 1, leaving `reserve`; 0 for counts below three."""
    wanted = np.maximum(1, np.floor(counts * share + 0.5).astype(np.int64))
    return np.where(counts >= 3, np.minimum(wanted, counts - reserve), 0)


def leave_one_out_labels(table: Interactions) -> IntArray:
    """Test on each user's last interaction and validate on the one before, except for users with 1 or 2."""
    order, rank, counts = _ranks(table.users, _times(table, "leave-one-out"))
    left = counts - 1 - rank
    labels = np.zeros(len(table), np.int64)
    labels[order] = np.where(counts < 3, TRAIN, np.where(left == 0, TEST, np.where(left == 1, VALIDATION, 0)))
    return labels


def time_labels(table: Interactions, ratio: Sequence[int]) -> IntArray:
    """Split all interactions at two points in time; interactions of the same time get the same label."""
    times = _times(table, "time")
    ordered = np.sort(times)
    cuts = np.cumsum(ratio)[:2] * len(times) // sum(ratio)
    return np.searchsorted(ordered[cuts], times, side="right").astype(np.int64)


def given_labels(table: Interactions) -> IntArray:
    """Return the labels of the file."""
    if table.label is None:
        raise DataError("split.kind given needs a column x_label (0 train, 1 validation, 2 test)")
    return table.label


SPLITTERS: dict[str, Callable[[Interactions, Sequence[int], int], IntArray]] = {
    "random": random_labels,
    "leave-one-out": lambda table, *_: leave_one_out_labels(table),
    "time": lambda table, ratio, _: time_labels(table, ratio),
    "given": lambda table, *_: given_labels(table),
}


def _times(table: Interactions, kind: str) -> DoubleArray:
    if table.time is None:
        raise DataError(f"split.kind {kind} needs times; name their column with `time_column`")
    return table.time


def _ranks(users: IntArray, key: DoubleArray) -> tuple[IntArray, IntArray, IntArray]:
    """Sort by user, key and position; return the order, the rank within the user and the user's count."""
    order = np.lexsort((np.arange(len(users)), key, users))
    counts = np.bincount(users)
    starts = np.concatenate([[0], counts.cumsum()[:-1]])
    ordered = users[order]
    return order, np.arange(len(users)) - starts[ordered], counts[ordered]
