"""Explanations against the scores that they explain."""

import numpy as np
import pytest

from mmtoolkit.core.errors import UsageError
from mmtoolkit.recommend.graphs.graph import list_graph, nearest_neighbours
from mmtoolkit.recommend.serving.explain import BEHAVIOUR, Explainer, Links

KINDS = {
    "igdmrec": ["model.kind=igdmrec"],
    "igdmrec, mean of layers": ["model.kind=igdmrec", "model.layer_combination=mean"],
    "igdmrec, one layer": ["model.kind=igdmrec", "model.layers=1"],
    "igdmrec, no layers": ["model.kind=igdmrec", "model.layers=0"],
    "igdmrec, semantic": ["model.kind=igdmrec", "model.item_graph=semantic"],
    "igdmrec, history": ["model.kind=igdmrec", "history.weight=3", "history.graph_weight=0.5"],
    "freedom": ["model.kind=freedom"],
    "freedom, two item layers": ["model.kind=freedom", "peers.freedom_item_layers=2"],
    "freedom, no item layer": ["model.kind=freedom", "peers.freedom_item_layers=0"],
    "lightgcn": ["model.kind=lightgcn", "model.layers=3", "model.layer_combination=mean"],
    "ease": ["model.kind=ease"],
    "item-knn": ["model.kind=item-knn"],
}


@pytest.mark.parametrize("kind", KINDS)
def test_parts_add_up_to_the_score(kind, trained_model):
    model = trained_model(*KINDS[kind])
    users = np.arange(0, model.data.users, 7)
    scores = model.scores(users).double().cpu().numpy()
    explainer = Explainer(model, most=2)
    for row, user in enumerate(users.tolist()):
        for item in (0, 11, 42):
            one = explainer.explain(user, item)
            assert one.score == pytest.approx(scores[row, item], abs=1e-5)
            by_history = sum(reason.part for reason in one.history) + one.history_rest + one.own
            assert by_history == pytest.approx(one.score, abs=1e-12)
            assert len(one.history) <= 2
            if one.neighbours is not None:
                parts = sum(reason.part for reason in one.neighbours)
                total = parts + one.neighbours_rest + one.collaborative + one.remembered
                assert total == pytest.approx(one.score, abs=1e-12)


def test_the_largest_parts_are_named_first(trained_model):
    model = trained_model("model.kind=igdmrec")
    user, item = 5, 9
    named = Explainer(model, most=100).explain(user, item)
    parts = [reason.part for reason in named.history]
    assert parts == sorted(parts, reverse=True)
    assert {reason.item for reason in named.history} == set(model.data.train[[user]].indices.tolist())
    assert {reason.item for reason in named.neighbours} == set(model.item_graph[[item]].indices.tolist())
    assert (named.history_rest, named.neighbours_rest) == (0, 0)
    short = Explainer(model, most=1).explain(user, item)
    assert short.history == named.history[:1]
    assert short.history_rest == pytest.approx(sum(parts[1:]))


def test_links_are_those_of_the_graphs(trained_model):
    model = trained_model("model.kind=igdmrec", "graph.neighbours=4")
    links = Links(model)
    shared = (model.data.train.T @ model.data.train).toarray()
    graphs = {}
    for name, modality in model.data.modalities.items():
        lists = nearest_neighbours(modality.features, 4, model.users.device)
        graphs[name] = list_graph(lists).toarray()
    for item in range(0, 60, 7):
        for other in range(60):
            names, count = links.between(item, other)
            assert count == shared[item, other]
            wanted = {n for n, g in graphs.items() if item != other and (g[item, other] or g[other, item])}
            if item != other and shared[item, other] >= 2:
                wanted.add(BEHAVIOUR)
            assert set(names) == wanted


def test_ready_lists_and_empty_features(trained_model):
    model = trained_model("model.kind=igdmrec", "graph.neighbours=4")
    model.data.modalities["text"].neighbours[4] = np.tile([1, 2, 3, 4], (60, 1))
    model.data.modalities["image"].features[7] = 0
    links = Links(model)
    assert links.near("text", 0) == {1, 2, 3, 4}
    assert links.near("image", 7) == frozenset()
    assert all(7 not in links.near("image", item) for item in range(60))


@pytest.mark.parametrize("kind", ["bpr-mf", "vbpr", "popularity"])
def test_models_without_sums_are_refused(kind, trained_model):
    with pytest.raises(UsageError, match=f"the scores of {kind} are no sums"):
        Explainer(trained_model(f"model.kind={kind}"))
