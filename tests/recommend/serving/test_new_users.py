"""New users against trained ones."""

import numpy as np
import pytest
import torch

from mmtoolkit.core.errors import UsageError
from mmtoolkit.recommend.serving.new_users import fold_in, fold_in_users


def histories_of(model):
    train = model.data.train
    return [train.indices[a:b].astype(np.int64) for a, b in zip(train.indptr, train.indptr[1:], strict=False)]


@pytest.mark.parametrize("kind", ["igdmrec", "freedom", "lightgcn"])
def test_folding_in_a_trained_users_history_gives_that_user(kind, trained_model):
    model = trained_model(f"model.kind={kind}", "model.layer_combination=last")
    assert torch.allclose(fold_in_users(model, histories_of(model)), model.users, atol=1e-6)


def test_with_the_mean_of_layers_only_the_users_own_embedding_is_missing(trained_model):
    model = trained_model("model.kind=igdmrec", "model.layer_combination=mean", "model.layers=2")
    own = model.weights["recommender.users"] / 3
    assert torch.allclose(fold_in_users(model, histories_of(model)) + own, model.users, atol=1e-6)


def test_a_model_without_layers_refuses_new_users(trained_model):
    with pytest.raises(UsageError, match=r"users do not depend on items"):
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


def test_popularity_refuses_new_users(trained_model):
    model = trained_model("model.kind=popularity")
    with pytest.raises(UsageError, match="popularity has none"):
        list(fold_in(model, [np.array([1])]))


def test_items_of_a_new_user_are_excluded(trained_model):
    model = trained_model("model.kind=igdmrec")
    lists = list(fold_in(model, [np.array([1, 2, 3]), np.array([7])], top_k=60))
    assert [one.key for one in lists] == [0, 1]
    assert set(lists[0].items) == set(range(60)) - {1, 2, 3}
    assert len(lists[1].items) == 59
    kept = next(fold_in(model, [np.array([1, 2, 3])], top_k=60, keep_seen=True))
    assert set(kept.items) == set(range(60))
