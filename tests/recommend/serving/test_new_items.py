"""New items against a slow oracle."""

import numpy as np
import pytest

from mmtoolkit.core.errors import DataError
from mmtoolkit.recommend.serving.new_items import audience, place_items


def slow_place(model, features, weights, k):
    """Place one new item from the definition."""
    mixture = np.zeros(model.data.items)
    for name, vector in features.items():
        known = model.data.modalities[name].features
        cosine = known @ vector / np.linalg.norm(known, axis=1) / np.linalg.norm(vector)
        mixture[np.argsort(-cosine)[:k]] += weights[name] / k
    mixture /= mixture.sum()
    return mixture @ model.items.numpy(), mixture


def test_new_items_are_at_the_weighted_mean_of_their_neighbours(trained_model):
    weights = {"image": 0.2, "text": 0.8}
    model = trained_model("model.kind=igdmrec", "graph.neighbours=5", f"data.modalities={weights}")
    rng = np.random.default_rng(0)
    features = {name: rng.normal(size=(6, 24)).astype(np.float32) for name in weights}
    features["text"][4] = 0
    placed = place_items(model, features)
    for item in range(6):
        known = {name: rows[item] for name, rows in features.items() if rows[item].any()}
        vector, mixture = slow_place(model, known, weights, 5)
        assert np.allclose(placed.vectors[item], vector, atol=1e-6)
        nearest = placed.nearest[item]
        assert nearest.key == item
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
