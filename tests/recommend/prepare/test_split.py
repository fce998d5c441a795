"""Filters and splits against their definitions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmtoolkit.core.errors import DataError
from mmtoolkit.recommend.prepare.config import FilterSettings, SplitSettings
from mmtoolkit.recommend.prepare.interactions import Interactions
from mmtoolkit.recommend.prepare.split import (
    distinct_pairs,
    filter_interactions,
    k_core,
    leave_one_out_labels,
    random_labels,
    split_interactions,
    time_labels,
)


def table(users, items, rating=None, time=None, label=None):
    users, items = np.array(users), np.array(items)
    names = [f"u{n}" for n in range(users.max() + 1)], [f"i{n}" for n in range(items.max() + 1)]
    parts = (None if part is None else np.array(part, np.float64) for part in (rating, time))
    return Interactions(*names, users, items, *parts, None if label is None else np.array(label))


def slow_k_core(pairs, user_core, item_core):
    """Drop one interaction at a time."""
    kept = list(range(len(pairs)))
    while True:
        users, items = ([pairs[k][side] for k in kept] for side in (0, 1))
        weak = [
            k for k in kept if users.count(pairs[k][0]) < user_core or items.count(pairs[k][1]) < item_core
        ]
        if not weak:
            return kept
        kept.remove(weak[0])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=30, unique=True),
    st.integers(1, 4),
    st.integers(1, 4),
)
def test_k_core_is_what_dropping_one_by_one_leaves(pairs, user_core, item_core):
    users, items = np.array(pairs).T
    mask = k_core(users, items, user_core, item_core)
    assert np.flatnonzero(mask).tolist() == slow_k_core(pairs, user_core, item_core)


def test_duplicates_keep_the_first_or_the_last():
    repeated = table([0, 0, 1, 0], [1, 0, 1, 1], time=[30, 20, 10, 5])
    assert distinct_pairs(repeated, "first").tolist() == [1, 2, 3]
    assert distinct_pairs(repeated, "last").tolist() == [0, 1, 2]
    without_time = table([0, 0, 1, 0], [1, 0, 1, 1])
    assert distinct_pairs(without_time, "first").tolist() == [0, 1, 2]
    assert distinct_pairs(without_time, "last").tolist() == [1, 2, 3]


def test_filters_count_what_they_drop_and_renumber_the_rest():
    raw = table([0, 0, 1, 1, 1, 2], [0, 0, 1, 2, 0, 3], rating=[5, 5, 5, 1, 4, 5])
    kept, dropped = filter_interactions(raw, FilterSettings(min_rating=4, user_core=1, item_core=2))
    assert dropped == {"low_rating": 1, "repeated": 1, "outside_core": 2}
    assert (kept.user_names, kept.item_names) == (["u0", "u1"], ["i0"])
    assert kept.users.tolist() == [0, 1]
    with pytest.raises(DataError, match="rating_column"):
        filter_interactions(table([0], [0]), FilterSettings(min_rating=4))


@pytest.mark.parametrize(
    ("count", "held_out"), [(1, 0), (2, 0), (3, 1), (5, 1), (14, 1), (15, 2), (24, 2), (100, 10)]
)
def test_random_split_holds_out_a_tenth_and_at_least_one(count, held_out):
    labels = random_labels(table([0] * count, range(count)), (8, 1, 1), 0)
    assert np.bincount(labels, minlength=3).tolist() == [count - 2 * held_out, held_out, held_out]


def test_random_split_follows_the_seed_and_not_the_other_users():
    both = table([0] * 10 + [1] * 10, [*range(10), *range(10)])
    first = random_labels(both, (8, 1, 1), 3)
    assert np.array_equal(first, random_labels(both, (8, 1, 1), 3))
    assert not np.array_equal(first, random_labels(both, (8, 1, 1), 4))
    assert not np.array_equal(first[:10], first[10:])


def test_extreme_ratios_leave_training():
    labels = random_labels(table([0] * 4, range(4)), (1, 1, 98), 0)
    assert np.bincount(labels).tolist() == [1, 1, 2]


def test_leave_one_out_takes_the_last_two_by_time_then_by_place():
    labels = leave_one_out_labels(table([0, 1, 0, 0, 1, 0], range(6), time=[4, 1, 9, 2, 2, 9]))
    assert labels.tolist() == [0, 0, 1, 0, 0, 2]


def test_time_split_never_divides_an_instant_and_never_looks_ahead():
    times = [1, 2, 3, 4, 5, 6, 7, 8, 9, 9]
    labels = time_labels(table([0] * 10, range(10), time=times), (8, 1, 1))
    assert labels.tolist() == [0] * 8 + [2] * 2
    shuffled = np.random.default_rng(0).permutation(1000)
    labels = time_labels(table([0] * 1000, range(1000), time=shuffled), (8, 1, 1))
    assert np.bincount(labels).tolist() == [800, 100, 100]
    assert shuffled[labels == 0].max() < shuffled[labels == 1].min()
    assert shuffled[labels == 1].max() < shuffled[labels == 2].min()


def test_users_without_training_are_dropped_and_counted():
    late = table([0] * 8 + [1, 0, 1, 0], [*range(8), 10, 8, 10, 9], time=range(12))
    kept, labels, idle = split_interactions(late, SplitSettings(kind="time", ratio=(8, 2, 2)), 0)
    assert (idle, kept.user_names) == (1, ["u0"])
    assert labels.tolist() == [0] * 8 + [1, 2]
    assert kept.items.tolist() == list(range(10))
    assert "i10" not in kept.item_names


@pytest.mark.parametrize(
    ("split", "time", "expected"),
    [
        ("time", None, "split.kind time needs times"),
        ("leave-one-out", None, "split.kind leave-one-out needs times"),
        ("given", None, "needs a column x_label"),
        ("time", [1, 1, 1, 1], "split would be empty"),
    ],
)
def test_impossible_splits_are_refused(split, time, expected):
    with pytest.raises(DataError, match=expected):
        split_interactions(table([0, 0, 0, 0], [0, 1, 2, 3], time=time), SplitSettings(kind=split), 0)


def test_a_user_with_every_item_is_refused():
    users, items = [0] * 3 + [1] * 4, [0, 1, 2, 0, 1, 2, 3]
    full = table(users, items, label=[0, 1, 2, 0, 0, 0, 0])
    with pytest.raises(DataError, match="user 'u1' has every item in training"):
        split_interactions(full, SplitSettings(kind="given"), 0)
