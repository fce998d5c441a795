import csv
import io
import json
from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from mmtoolkit.core.checkpoint import load_checkpoint
from mmtoolkit.core.errors import DataError, RunError
from mmtoolkit.recommend.data.dataset import Modality
from mmtoolkit.recommend.graphs.graph import cosine_neighbours, normalise_symmetric, user_item_graph
from mmtoolkit.recommend.load import load
from mmtoolkit.recommend.models.kinds import LEARNERS, make_learner
from mmtoolkit.recommend.models.learner import Loop
from mmtoolkit.recommend.models.peers.closed import ease_weights
from mmtoolkit.recommend.models.peers.learned import thin_edges
from mmtoolkit.recommend.train import train
from mmtoolkit.recommend.training.loop import train_epoch
from mmtoolkit.recommend.training.state import set_up

CPU = torch.device("cpu")
PEERS = [kind for kind in LEARNERS if kind != "igdmrec"]


def test_ease_by_hand():
    # R^T R + I = [[3, 1], [1, 2]], its inverse [[2, -1], [-1, 3]] / 5
    train_split = sp.csr_array(np.array([[1, 1], [1, 0]], np.float32))
    expected = [[0, 1 / 3], [1 / 2, 0]]
    assert ease_weights(train_split, 1.0).numpy() == pytest.approx(np.array(expected), abs=1e-6)


def test_ease_is_a_ridge_regression_of_every_item_on_the_others(tiny_data):
    dense, ridge = tiny_data.train.toarray().astype(np.float64), 3.0
    found = ease_weights(tiny_data.train, ridge).numpy()
    for item in (0, 7, 59):
        others = np.delete(np.arange(60), item)
        x = dense[:, others]
        expected = np.linalg.solve(x.T @ x + ridge * np.eye(59), x.T @ dense[:, item])
        assert found[others, item] == pytest.approx(expected, abs=1e-5)
        assert found[item, item] == 0


def test_ease_refuses_what_cannot_fit(tiny_data, tiny_settings, new_run, monkeypatch):
    monkeypatch.setattr("os.sysconf", lambda _: 10)
    settings = tiny_settings("model.kind=ease")
    with pytest.raises(RunError, match=r"use model\.kind item-knn"):
        train(settings, new_run(settings), tiny_data)


@pytest.mark.parametrize("neighbours", [3, 100])
def test_item_knn_agrees_with_loops(tiny_data, neighbours):
    found = cosine_neighbours(tiny_data.train, neighbours, shrinkage=2.0).toarray()
    sets = [set(tiny_data.train[:, [i]].nonzero()[0]) for i in range(60)]
    for i in range(60):
        scores = [
            (-len(sets[i] & sets[j]) / ((len(sets[i]) * len(sets[j])) ** 0.5 + 2.0), j)
            for j in range(60)
            if j != i and sets[i] & sets[j]
        ]
        expected = np.zeros(60)
        for value, j in sorted((round(v, 9), j) for v, j in scores)[:neighbours]:
            expected[j] = -value
        assert found[i] == pytest.approx(expected, abs=1e-6)


def test_item_knn_and_ease_score_a_history(tiny_data, tiny_settings):
    for kind, matrix in (("item-knn", "similar"), ("ease", "item_weights")):
        learner = make_learner(tiny_settings(f"model.kind={kind}"), tiny_data, CPU)
        learner.begin_epoch(Loop(CPU))
        weights = getattr(learner, matrix)
        dense = weights.toarray().T if kind == "item-knn" else weights.numpy()
        expected = tiny_data.train[[4, 9]].toarray() @ dense
        assert learner.scorer().scores(np.array([4, 9])).numpy() == pytest.approx(expected, abs=1e-5)


def test_lightgcn_is_the_mean_over_powers_of_the_adjacency(tiny_data, tiny_settings):
    settings = tiny_settings("model.kind=lightgcn", "model.layers=3", "model.layer_combination=mean")
    learner = make_learner(settings, tiny_data, CPU)
    graph = user_item_graph(tiny_data.train).toarray()
    x = torch.cat([learner.recommender.users, learner.recommender.items]).detach().numpy()
    expected = sum(np.linalg.matrix_power(graph, power) @ x for power in range(4)) / 4
    scorer = learner.scorer()
    assert torch.cat([scorer.users, scorer.items]).numpy() == pytest.approx(expected, abs=1e-5)


def test_freedom_adds_the_frozen_graph_and_propagates_on_the_thinned_one(tiny_data, tiny_settings):
    settings = tiny_settings(
        "model.kind=freedom", "model.layer_combination=mean", "peers.freedom_item_layers=2"
    )
    learner = make_learner(settings, tiny_data, CPU)
    items = learner.recommender.items.detach().numpy()
    near = np.linalg.matrix_power(learner.item_graph.toarray(), 2) @ items
    _, collaborative = learner.recommender.collaborative(learner.user_item)
    found = learner.scorer().items.numpy()
    assert found == pytest.approx(collaborative.detach().numpy() + near, abs=1e-5)
    text, image = (
        normalise_symmetric(
            make_learner(
                tiny_settings("model.kind=freedom", f"data.modalities.{m}=1"), tiny_data, CPU
            ).item_graph
        )
        for m in ("text", "image")
    )
    assert learner.item_graph.toarray() == pytest.approx((text + image).toarray() / 2, abs=1e-6)


def test_freedom_learns_from_features_too(tiny_data, tiny_settings):
    batch = torch.tensor([[0, 1, 2], [3, 4, 5]])
    losses = []
    for weight in (0.0, 0.5):
        torch.manual_seed(0)
        settings = tiny_settings("model.kind=freedom", f"peers.freedom_modality_weight={weight}")
        learner = make_learner(settings, tiny_data, CPU)
        losses.append(learner.loss(batch))
    losses[1].backward()
    assert losses[1] > losses[0]
    assert learner.recommender.project["text"].weight.grad.abs().sum() > 0


def test_thinning_keeps_edges_of_rare_items_more_often(tiny_data):
    kept = thin_edges(tiny_data.train, 0.25)
    assert kept.nnz == round(0.25 * tiny_data.train.nnz)
    assert (kept.multiply(tiny_data.train) != kept).nnz == 0
    assert (thin_edges(tiny_data.train, 1.0) != tiny_data.train).nnz == 0
    # one popular item against three of one user each: weights 1/sqrt(8) against 1
    train_split = sp.csr_array(np.array([[1, 1, 0, 0]] + [[1, 0, 0, 0]] * 5 + [[1, 0, 1, 0], [1, 0, 0, 1]]))
    drawn = sum(thin_edges(train_split, 0.1).toarray() for _ in range(4000)) / 4000
    assert drawn.sum() == pytest.approx(1)
    weights = 1 / np.sqrt(np.outer(train_split.sum(axis=1), train_split.sum(axis=0))) * train_split.toarray()
    assert drawn == pytest.approx(weights / weights.sum(), abs=0.025)


def test_vbpr_is_the_sum_of_its_four_parts(tiny_data, tiny_settings):
    learner = make_learner(tiny_settings("model.kind=vbpr", "model.embedding=7"), tiny_data, CPU)
    net = learner.recommender.requires_grad_(False)
    net.bias.normal_()
    net.visual_bias.normal_()
    scores = learner.scorer().scores(np.array([5]))[0]
    latent, visual = net.users[5, :4], net.users[5, 4:]
    features = torch.cat(
        [
            0.5**0.5 * torch.nn.functional.normalize(torch.from_numpy(m.features), dim=1)
            for m in tiny_data.modalities.values()
        ],
        dim=1,
    )
    for item in (0, 31):
        expected = latent @ net.items[item] + visual @ (net.project.T @ features[item])
        expected += net.bias[item, 0] + features[item] @ net.visual_bias[:, 0]
        assert float(scores[item]) == pytest.approx(float(expected), abs=1e-5)


def test_vbpr_needs_features(tiny_data, tiny_settings):
    lists = np.arange(600).reshape(60, 10) % 60
    data = replace(tiny_data, modalities={"text": Modality(None, {10: lists})})
    with pytest.raises(DataError, match=r"add text_feat\.npy or use model\.kind freedom"):
        make_learner(tiny_settings("model.kind=vbpr"), data, CPU)
    make_learner(tiny_settings("model.kind=freedom"), data, CPU)


@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize("kind", ["freedom", "vbpr", "ease"])
def test_a_resumed_peer_equals_an_uninterrupted_one(tiny_data, tiny_settings, new_run, kind):
    change = f"model.kind={kind}"
    whole, parts = new_run(tiny_settings(), "whole"), new_run(tiny_settings(), "parts")
    expected = train(tiny_settings(change, "train.epochs=3"), whole, tiny_data)
    train(tiny_settings(change, "train.epochs=1"), parts, tiny_data)
    torch.rand(7)
    assert train(tiny_settings(change, "train.epochs=3"), parts, tiny_data, resume=True) == expected
    a, b = (load_checkpoint(run.checkpoint()).model for run in (parts, whole))
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


@pytest.mark.parametrize("kind", ["lightgcn", "freedom", "vbpr", "bpr-mf"])
def test_peers_learn(tiny_data, tiny_settings, kind):
    settings = tiny_settings(f"model.kind={kind}", "train.learning_rate=0.05", "model.layers=1")
    training = set_up(settings, tiny_data)
    losses = [train_epoch(training)["loss_recommender"] for _ in range(8)]
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize("kind", PEERS)
def test_every_peer_trains_evaluates_and_predicts_through_the_command_line(mmtk, data_folder, tmp_path, kind):
    run = tmp_path / "run"
    arguments = ["-c", kind, "--data", data_folder, "-o", run, "-s", "train.epochs=1", "--json", "-q"]
    result = mmtk("recommend", "train", *arguments, "-s", "data.modalities={}")
    assert result.exit_code == 0, result.output
    trained = json.loads(result.stdout)
    evaluated = json.loads(mmtk("recommend", "eval", "--checkpoint", run, "--json", "-q").stdout)
    assert evaluated["metrics"].items() >= trained["metrics"].items()
    text = mmtk("recommend", "predict", "--checkpoint", run, "--users", "3", "--top-k", "4", "-q").stdout
    rows = list(csv.DictReader(io.StringIO(text)))
    scores = [float(row["score"]) for row in rows]
    assert len(rows) == 4
    assert scores == sorted(scores, reverse=True)
    model = load(run)
    embedded = kind in ("lightgcn", "freedom", "vbpr", "bpr-mf")
    assert (model.users is not None) == (model.items is not None) == embedded
    assert model.scores(np.array([1, 2])).shape == (2, 60)
    dry = json.loads(
        mmtk("recommend", "train", *arguments[:4], "-s", "data.modalities={}", "-n", "--json").stdout
    )
    assert dry["model"] == kind
