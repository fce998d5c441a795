import math

import numpy as np
import pytest
import torch

from mmtoolkit.recommend.config import EvaluateSettings
from mmtoolkit.recommend.data.dataset import RecommendData
from mmtoolkit.recommend.evaluation.metrics import rank_unseen, ranking_metrics, score_users
from mmtoolkit.recommend.models.learner import Embeddings


def test_metrics_by_hand():
    hits = np.array([[True, False, True, False]])
    scores = {name: float(v[0]) for name, v in ranking_metrics(hits, np.array([3]), [2, 4]).items()}
    assert scores["recall@2"] == pytest.approx(1 / 3)
    assert scores["recall@4"] == pytest.approx(2 / 3)
    assert scores["precision@4"] == pytest.approx(1 / 2)
    assert scores["map@2"] == pytest.approx(1 / 2)
    assert scores["map@4"] == pytest.approx((1 + 2 / 3) / 3)
    ideal2, ideal3 = 1 + 1 / math.log2(3), 1 + 1 / math.log2(3) + 1 / 2
    assert scores["ndcg@2"] == pytest.approx(1 / ideal2)
    assert scores["ndcg@4"] == pytest.approx(1.5 / ideal3)


def test_lists_shorter_than_the_cutoff_are_scored_whole():
    scores = ranking_metrics(np.array([[True]]), np.array([1]), [20])
    assert scores["recall@20"] == 1
    assert scores["precision@20"] == 1 / 20


def oracle(user_scores, seen, positives, k):
    order = [i for i in np.argsort(-user_scores, kind="stable") if i not in seen][:k]
    hit = [item in positives for item in order]
    dcg = sum(1 / math.log2(r + 2) for r, h in enumerate(hit) if h)
    best = min(len(positives), k)
    average = sum(sum(hit[: r + 1]) / (r + 1) for r, h in enumerate(hit) if h) / best
    ideal = sum(1 / math.log2(r + 2) for r in range(best))
    return {
        "recall": sum(hit) / len(positives),
        "precision": sum(hit) / k,
        "map": average,
        "ndcg": dcg / ideal,
    }


@pytest.mark.parametrize(("split", "mask"), [("validation", False), ("test", False), ("test", True)])
def test_full_ranking_agrees_with_a_loop_over_users(tiny_data: RecommendData, split, mask):
    users, items = torch.randn(tiny_data.users, 5), torch.randn(tiny_data.items, 5)
    settings = EvaluateSettings(top_k=(3, 7), batch_size=9, mask_validation=mask)
    found = score_users(Embeddings(users, items).scores, tiny_data, split, settings)
    for row, user in enumerate(found["user"].astype(int)):
        seen = set(tiny_data.train[[user]].indices)
        if mask:
            seen |= set(tiny_data.validation[[user]].indices)
        positives = set(tiny_data.split(split)[[user]].indices)
        for k in (3, 7):
            expected = oracle((items @ users[user]).numpy(), seen, positives, k)
            for name, value in expected.items():
                assert found[f"{name}@{k}"][row] == pytest.approx(value), (user, name, k)


def test_users_without_a_positive_are_left_out(tiny_data: RecommendData):
    test = tiny_data.test.copy()
    test.data[:] = 1
    test = test.tolil()
    test[0] = 0
    import dataclasses

    import scipy.sparse as sp

    data = dataclasses.replace(tiny_data, test=sp.csr_array(test.tocsr()))
    scores = Embeddings(torch.randn(80, 2), torch.randn(60, 2)).scores
    found = score_users(scores, data, "test", EvaluateSettings())
    assert 0 not in found["user"]
    assert len(found["user"]) == 79


def test_seen_items_never_appear(tiny_data: RecommendData):
    model = Embeddings(torch.randn(80, 3), torch.randn(60, 3))
    for block, ranked, scores in rank_unseen(model.scores, tiny_data.train, np.arange(80), 60, 16):
        for user, row, values in zip(block, ranked.tolist(), scores.tolist(), strict=True):
            shown = {item for item, value in zip(row, values, strict=True) if value > -math.inf}
            assert shown == set(range(60)) - set(tiny_data.train[[user]].indices)
