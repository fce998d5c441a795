"""The history term against its definition."""

import numpy as np
import pytest
import torch

from mmtoolkit.recommend.config import GraphSettings, HistorySettings
from mmtoolkit.recommend.evaluate import evaluate
from mmtoolkit.recommend.graphs.graph import behaviour_graph, cosine_neighbours
from mmtoolkit.recommend.load import load
from mmtoolkit.recommend.models.history import History
from mmtoolkit.recommend.models.learner import Embeddings, WithHistory
from mmtoolkit.recommend.train import train

CPU = torch.device("cpu")
LINKED = GraphSettings(co_occurrence_threshold=2, behaviour_neighbours=5)


def test_scores_are_inner_products_plus_sums_over_the_history(tiny_data):
    settings = HistorySettings(weight=2.0, neighbours=60, shrinkage=5.0, graph_weight=0.3)
    rng = np.random.default_rng(0)
    users, items = (rng.normal(size=(n, 4)).astype(np.float32) for n in (tiny_data.users, tiny_data.items))
    graph = behaviour_graph(tiny_data.train, LINKED)  # any graph with a diagonal
    embeddings = Embeddings(torch.from_numpy(users), torch.from_numpy(items))
    found = History(tiny_data.train, settings).add_to(embeddings, graph, CPU).scores(np.arange(5)).numpy()
    has, links = tiny_data.train.toarray() > 0, graph.toarray()
    for user in range(5):
        for item in range(tiny_data.items):
            score = users[user] @ items[item]
            for other in np.flatnonzero(has[user]):
                if other != item:
                    shared, buyers = (has[:, other] & has[:, item]).sum(), has[:, [other, item]].sum(axis=0)
                    score += 2 * (shared / (np.sqrt(buyers.prod()) + 5) + 0.3 * links[other, item])
            assert found[user, item] == pytest.approx(score, rel=1e-4, abs=1e-4)


def test_only_neighbours_count_and_a_weight_of_zero_changes_nothing(tiny_data):
    short = History(tiny_data.train, HistorySettings(weight=1.0, neighbours=3, shrinkage=5.0))
    empty = behaviour_graph(tiny_data.train, LINKED) * 0
    assert np.array_equal(
        short.weights(empty).toarray(), cosine_neighbours(tiny_data.train, 3, 5.0).toarray()
    )
    embeddings = Embeddings(torch.ones(2, 2), torch.ones(3, 2))
    assert History(tiny_data.train, HistorySettings()).add_to(embeddings, empty, CPU) is embeddings


@pytest.mark.usefixtures("no_report")
def test_validation_and_ranking_include_the_history_term(tiny_settings, new_run, data_folder):
    settings = tiny_settings(f"data.path={data_folder}", "history.weight=3", "history.graph_weight=0.5")
    run = new_run(settings)
    result = train(settings, run)
    model = load(run.path)
    assert isinstance(model.scorer, WithHistory)
    assert evaluate(model).metrics.items() >= result.test.items()
    assert run.read_metrics()[result.best_epoch - 1]["recall@20"] == result.validation["recall@20"]
    plain = model.users @ model.items.T
    assert not torch.allclose(model.scores(np.arange(len(plain))), plain)
