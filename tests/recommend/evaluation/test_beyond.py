from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from mmtoolkit.recommend.config import EvaluateSettings
from mmtoolkit.recommend.evaluation.beyond import (
    gini,
    intra_list_similarity,
    item_groups,
    list_metrics,
    user_groups,
)
from mmtoolkit.recommend.evaluation.metrics import rank_split, score_lists
from mmtoolkit.recommend.models.learner import Embeddings

SETTINGS = EvaluateSettings(top_k=(5, 20))


@pytest.fixture
def lists(tiny_data):
    return rank_split(Embeddings(torch.randn(80, 4), torch.randn(60, 4)).scores, tiny_data, "test", SETTINGS)


def test_gini_by_hand():
    assert gini(np.array([3, 3, 3])) == 0
    assert gini(np.array([0, 0, 0, 8])) == pytest.approx(3 / 4)
    assert gini(np.array([1, 3])) == pytest.approx(1 / 4)


def test_coverage_and_novelty_by_hand(tiny_data, lists):
    found = list_metrics(lists, tiny_data, (5,))
    shown = lists.items[:, :5].ravel()
    assert found["coverage@5"] == len(set(shown.tolist())) / 60
    owners = [tiny_data.train[:, [item]].nnz for item in shown]
    expected = np.mean([-np.log2((count + 1) / 81) for count in owners])
    assert found["novelty@5"] == pytest.approx(expected)
    assert set(found) == {
        f"{name}@5"
        for name in ("coverage", "gini", "novelty", "similarity", "similarity_text", "similarity_image")
    }


@pytest.mark.parametrize("sparse", [True, False])
def test_similarity_agrees_with_a_loop_over_pairs(sparse):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(9, 5)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[3] = 0
    shown = np.array([[0, 3, 5], [7, 1, -1], [2, -1, -1]])
    expected = []
    for row in shown[:2]:
        here = [i for i in row if i >= 0]
        pairs = [vectors[a] @ vectors[b] for n, a in enumerate(here) for b in here[n + 1 :]]
        expected.append(np.mean(pairs))
    found = intra_list_similarity(shown, sp.csr_array(vectors) if sparse else vectors)
    assert found == pytest.approx(np.mean(expected), abs=1e-6)


def test_groups_hold_every_user_and_every_positive(tiny_data, lists):
    scores = score_lists(lists, (5, 20))
    users = user_groups(scores, tiny_data, 20)
    assert sum(group["users"] for group in users.values()) == len(lists.users)
    mean = sum(group["users"] * group["recall@20"] for group in users.values()) / len(lists.users)
    assert mean == pytest.approx(scores["recall@20"].mean())
    items = item_groups(lists, tiny_data, "test", 20)
    assert sum(group["items"] for group in items.values()) == 60
    assert sum(group["positives"] for group in items.values()) == tiny_data.test.nnz
    found = sum(group["positives"] * group["recall@20"] for group in items.values())
    assert found == pytest.approx(lists.hits[:, :20].sum())
    assert sum(group["shown@20"] for group in items.values()) == pytest.approx(1)


def test_items_without_training_users_are_cold(tiny_data, lists):
    taken = np.unique(tiny_data.train.indices)
    train = tiny_data.train.tolil()
    train[:, taken[0]] = 0
    data = replace(tiny_data, train=sp.csr_array(train.tocsr()))
    assert item_groups(lists, data, "test", 20)["cold"]["items"] == 60 - len(taken) + 1
