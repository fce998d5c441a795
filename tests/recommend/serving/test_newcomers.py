"""New items and new users against slow oracles."""

import numpy as np
import pytest
import torch

from mmtoolkit.core.errors import DataError, UsageError
from mmtoolkit.recommend.serving.newcomers import audience, fold_in, fold_in_users, place_items


def histories_of(model):
    train = model.data.train
    return [train.indices[a:b].astype(np.int64) for a, b in zip(train.indptr, train.indptr[1:], strict=False)]


@pytest.mark.parametrize("kind", ["igdmrec", "freedom", "lightgcn"])
def test_folding_in_a_trained_users_history_gives_that_user(kind, trained_model):
    model = trained_model(f"model.kind={kind}", "model.layer_combination=last")
    assert torch.allclose(fold_in_users(model, histories_of(model)), model.users, atol=1e-6)


def test_with_the_mean_of_layers_only_the_own_embedding_is_missing(trained_model):
    model = trained_model("model.kind=igdmrec", "model.layer_combination=mean", "model.layers=2")
    own = model.weights["recommender.users"] / 3
    assert torch.allclose(fold_in_users(model, histories_of(model)) + own, model.users, atol=1e-6)


def test_without_layers_there_is_nothing_to_fold_in(trained_model):
    with pytest.raises(UsageError, match=r"model\.layers 0 leaves nothing"):
        fold_in_users(trained_model("model.kind=igdmrec", "model.layers=0"), [np.array([1])])


@pytest.mark.parametrize(
    "changes",
    [["model.kind=ease"], ["model.kind=item-knn"], ["history.weight=3", "history.graph_weight=0.5"]],
    ids=["ease", "item-knn", "igdmrec with history"],
)
def test_history_models_score_a_history_as_they_score_its_user(changes, trained_model):
    model = trained_model(*changes)
    (one,) = fold_in(model, histories_of(model)[3:4], top_k=60, keep_seen=True)
    scores = model.scores(np.array([3]))[0]
    assert torch.allclose(torch.tensor(one.scores), scores[one.items], atol=1e-5)


def test_factor_models_are_folded_in_by_regression(trained_model):
    model = trained_model("model.kind=bpr-mf", "train.epochs=30", "train.patience=30")
    known = histories_of(model)
    folded = fold_in_users(model, known)
    trained = torch.nn.functional.cosine_similarity(folded, model.users).mean()
    strangers = torch.nn.functional.cosine_similarity(folded.roll(1, 0), model.users).mean()
    assert trained > strangers + 0.1


def test_popularity_folds_nobody_in(trained_model):
    model = trained_model("model.kind=popularity")
    with pytest.raises(UsageError, match="popularity has none"):
        list(fold_in(model, [np.array([1])]))


def test_what_a_new_user_has_is_left_out(trained_model):
    model = trained_model("model.kind=igdmrec")
    lists = list(fold_in(model, [np.array([1, 2, 3]), np.array([7])], top_k=60))
    assert [one.key for one in lists] == [0, 1]
    assert set(lists[0].items) == set(range(60)) - {1, 2, 3}
    assert len(lists[1].items) == 59
    kept = next(fold_in(model, [np.array([1, 2, 3])], top_k=60, keep_seen=True))
    assert set(kept.items) == set(range(60))


def slow_place(model, features, weights, k):
    """Place one new item from the definition."""
    mixture = np.zeros(model.data.items)
    for name, vector in features.items():
        known = model.data.modalities[name].features
        cosine = known @ vector / np.linalg.norm(known, axis=1) / np.linalg.norm(vector)
        mixture[np.argsort(-cosine)[:k]] += weights[name] / k
    mixture /= mixture.sum()
    return mixture @ model.items.numpy(), mixture


def test_new_items_stand_at_the_weighted_mean_of_their_neighbours(trained_model):
    weights = {"image": 0.2, "text": 0.8}
    model = trained_model("model.kind=igdmrec", "graph.neighbours=5", f"data.modalities={weights}")
    rng = np.random.default_rng(0)
    features = {name: rng.normal(size=(6, 24)).astype(np.float32) for name in weights}
    features["text"][4] = 0
    placed = place_items(model, features)
    for place in range(6):
        there = {name: rows[place] for name, rows in features.items() if rows[place].any()}
        vector, mixture = slow_place(model, there, weights, 5)
        assert np.allclose(placed.vectors[place], vector, atol=1e-6)
        nearest = placed.nearest[place]
        assert nearest.key == place
        assert set(nearest.items) == set(np.flatnonzero(mixture).tolist())
        assert np.allclose(nearest.scores, mixture[nearest.items], atol=1e-6)
    users = list(audience(model, placed, 7))
    scores = placed.vectors @ model.users.T
    assert [one.items for one in users] == scores.topk(7, dim=1).indices.tolist()


def test_a_known_items_own_features_place_it_among_its_group(trained_model):
    model = trained_model("model.kind=igdmrec")
    placed = place_items(model, {"text": model.data.modalities["text"].features})
    assert all(one.key in one.items for one in placed.nearest)


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        ({"sound": np.ones((1, 24), np.float32)}, "no features of modality 'sound'"),
        ({"text": np.ones((1, 9), np.float32)}, "vectors of width 9, the data set has 24"),
        ({"text": np.eye(3, 24, dtype=np.float32) * [[1], [0], [1]]}, "new item 1 .* has no text or picture"),
    ],
)
def test_unusable_features(features, expected, trained_model):
    features = {name: rows.astype(np.float32) for name, rows in features.items()}
    with pytest.raises(DataError, match=expected):
        place_items(trained_model("model.kind=igdmrec"), features)
