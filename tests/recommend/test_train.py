import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mmtoolkit.core.checkpoint import load_checkpoint
from mmtoolkit.core.errors import CheckpointError, DivergenceError
from mmtoolkit.recommend.data.synthetic import Plan, make_demo
from mmtoolkit.recommend.evaluate import evaluate
from mmtoolkit.recommend.load import load
from mmtoolkit.recommend.predict import predict
from mmtoolkit.recommend.train import train
from mmtoolkit.recommend.training.loop import train_epoch
from mmtoolkit.recommend.training.state import set_up


def assert_equal(a, b, where=""):
    assert type(a) is type(b), where
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_equal(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list):
        assert len(a) == len(b), where
        for index, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_equal(x, y, f"{where}[{index}]")
    else:
        assert a == b, where


def metrics_without_clock(run):
    keep = lambda name: not name.startswith("seconds") and name != "peak_memory"  # noqa: E731
    return [{k: v for k, v in record.items() if keep(k)} for record in run.read_metrics()]


@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize("graph", ["denoised", "semantic"])
def test_a_resumed_run_equals_an_uninterrupted_one_to_the_bit(tiny_data, tiny_settings, new_run, graph):
    change = f"model.item_graph={graph}"
    whole, parts = new_run(tiny_settings(), "whole"), new_run(tiny_settings(), "parts")
    expected = train(tiny_settings(change, "train.epochs=5"), whole, tiny_data)
    train(tiny_settings(change, "train.epochs=2"), parts, tiny_data)
    torch.rand(7)  # other random numbers in between
    found = train(tiny_settings(change, "train.epochs=5"), parts, tiny_data, resume=True)
    assert found == expected
    assert metrics_without_clock(parts) == metrics_without_clock(whole)
    for which in ("last", "best"):
        a, b = (load_checkpoint(run.checkpoint(which)) for run in (parts, whole))
        assert_equal(a.model, b.model, "model")
        assert_equal(a.state, b.state, "state")
        assert a.meta == b.meta


@pytest.mark.usefixtures("no_report")
def test_the_same_seed_gives_the_same_run_and_another_does_not(tiny_data, tiny_settings, new_run):
    results = [
        train(tiny_settings(f"seed={seed}"), new_run(tiny_settings(), str(n)), tiny_data)
        for n, seed in enumerate((1, 1, 2))
    ]
    assert results[0] == results[1]
    assert results[0].test != results[2].test


def test_overfit_save_load_predict(tiny_data, tiny_settings, new_run, data_folder):
    settings = tiny_settings("train.epochs=25", f"data.path={data_folder}", "train.patience=25")
    run = new_run(settings)
    result = train(settings, run)
    losses = [record["loss_recommender"] for record in run.read_metrics()]
    assert losses[-1] < 0.8 * losses[0]
    model = load(run.path)
    assert evaluate(model).metrics.items() >= result.test.items()
    assert evaluate(model, "validation").metrics.items() >= result.validation.items()
    assert evaluate(run.checkpoint("best")).metrics.items() >= result.test.items()
    for one in predict(model, np.array([5, 2]), top_k=7, seen="all"):
        known = {
            int(i)
            for split in ("train", "validation", "test")
            for i in tiny_data.split(split)[[one.key]].indices
        }
        assert not known & set(one.items)
        assert one.scores == sorted(one.scores, reverse=True)
        assert len(one.items) == 7
        expected = (model.items[one.items] @ model.users[one.key]).tolist()
        assert one.scores == pytest.approx(expected, rel=1e-5)
    stored = json.loads(run.results_path.read_text())
    assert stored["test"] == result.test
    assert (run.path / "report.html").read_text().count("data:image/png") >= 3


def test_learning_finds_the_planted_groups():
    from mmtoolkit.core.config import config_layer, resolve, set_layers
    from mmtoolkit.recommend.config import RecommendSettings

    data = make_demo(Plan(users=600, items=200, groups=8))
    layers = [config_layer("recommend", "demo"), *set_layers(["diffusion.hidden=64"])]
    training = set_up(resolve(RecommendSettings, layers).settings, data)
    records = [train_epoch(training) for _ in range(12)]
    chance = 20 / 200
    assert records[-1]["recall@20"] > 3 * chance
    assert records[-1]["purity_denoised"] > 2 * records[0]["purity_denoised"] > 0


@pytest.mark.usefixtures("no_report")
def test_best_epoch_is_restored_and_patience_stops(tiny_data, tiny_settings, new_run):
    settings = tiny_settings("train.epochs=60", "train.patience=3", "train.learning_rate=0.05")
    run = new_run(settings)
    result = train(settings, run, tiny_data)
    history = [record["recall@20"] for record in run.read_metrics()]
    assert result.epochs == result.best_epoch + 3 < 60
    assert result.best_epoch == int(np.argmax(history)) + 1
    assert result.validation["recall@20"] == pytest.approx(max(history))


def test_the_recommender_may_use_a_share_of_the_semantic_graph(tiny_data, tiny_settings):
    graphs = []
    for share in (0.0, 0.25, 1.0):
        training = set_up(tiny_settings(f"graph.semantic_share={share}"), tiny_data)
        semantic = training.learner.item_graph.toarray()
        train_epoch(training)
        graphs.append(training.learner.item_graph.toarray())
    assert np.array_equal(graphs[2], semantic)
    assert np.allclose(graphs[1], 0.75 * graphs[0] + 0.25 * semantic, atol=1e-6)
    assert not np.allclose(graphs[0], semantic)


@pytest.mark.usefixtures("no_report")
def test_other_data_are_refused(tiny_data, tiny_settings, new_run):
    run = new_run(tiny_settings())
    train(tiny_settings(), run, tiny_data)
    other = make_demo(Plan(users=80, items=60, groups=4, mean_interactions=8), seed=4)
    with pytest.raises(CheckpointError, match="other interactions"):
        train(tiny_settings("train.epochs=3"), run, other, resume=True)


@pytest.mark.usefixtures("no_report")
def test_divergence_is_named_and_keeps_the_last_checkpoint(tiny_data, tiny_settings, new_run):
    run = new_run(tiny_settings())
    train(tiny_settings(), run, tiny_data)
    with pytest.raises(DivergenceError, match=r"lower train\.learning_rate"):
        train(tiny_settings("train.learning_rate=1e30"), new_run(tiny_settings(), "b"), tiny_data)
    assert run.checkpoint()


def test_training_needs_less_memory_than_one_array_of_items_times_items():
    script = Path(__file__).with_name("train_large.py")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    items, memory = map(int, done.stdout.split()[-2:])
    assert memory < 4 * items**2


def test_an_epoch_of_real_batch_size_repeats_to_the_bit(tiny_settings):
    data = make_demo()
    settings = tiny_settings("train.batch_size=2048", "model.embedding=64")
    ends = []
    for _ in range(3):
        training = set_up(settings, data)
        train_epoch(training)
        ends.append(training.learner.weights())
    assert_equal(ends[0], ends[1])
    assert_equal(ends[0], ends[2])
