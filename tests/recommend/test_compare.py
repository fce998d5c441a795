import json
import shutil
import sys

import numpy as np
import pytest

from mmtoolkit.recommend.compare import bootstrap_means, compare

TINY = ["-s", "train.epochs=1", "-s", "data.modalities={}", "-q"]


@pytest.fixture(scope="module")
def runs(mmtk, tiny_folder, tmp_path_factory):
    """Two seeds of one model, another setting of it, and a model without seeds."""
    folder = tmp_path_factory.mktemp("runs")
    wanted = {
        "a0": ["bpr-mf", "--seed", "0"],
        "a1": ["bpr-mf", "--seed", "1"],
        "b": ["bpr-mf", "-s", "train.learning_rate=0.01"],
        "p": ["popularity"],
    }
    for name, (preset, *more) in wanted.items():
        command = ["recommend", "train", "-c", preset, *more, "--data", tiny_folder, "-o", folder / name]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys.modules["mmtoolkit.recommend.train"], "write_run_report", lambda *_: None)
            assert mmtk(*command, *TINY).exit_code == 0
    return {name: folder / name for name in wanted}


def test_bootstrap_agrees_with_theory():
    rng = np.random.default_rng(0)
    values = rng.normal([[[0.0]], [[1.0]]], 1, (2, 1, 400))
    means = bootstrap_means(values, 3000, seed=1)
    assert means.shape == (3000, 2, 1)
    assert means.mean(axis=0) == pytest.approx(values.mean(axis=2), abs=0.01)
    assert means.std(axis=0) == pytest.approx(values.std(axis=2) / 20, rel=0.1)
    # the same users for both groups: a constant difference has no spread
    same = bootstrap_means(np.stack([values[0], values[0] + 0.5]), 300, seed=1)
    assert (same[:, 1] - same[:, 0]).std() == pytest.approx(0, abs=1e-12)


def test_runs_are_grouped_by_settings_and_paired_by_user(runs):
    found = compare(list(runs.values()), metrics=["ndcg@10", "recall@20"])
    groups = {group.label: group for group in found.groups}
    assert set(groups) == {
        "bpr-mf (train.learning_rate=0.001)",
        "bpr-mf (train.learning_rate=0.01)",
        "popularity",
    }
    seeds = groups["bpr-mf (train.learning_rate=0.001)"]
    each = [json.loads((runs[n] / "results.json").read_text())["test"]["ndcg@10"] for n in ("a0", "a1")]
    assert seeds.mean["ndcg@10"] == pytest.approx(np.mean(each), abs=1e-6)
    assert seeds.deviation["ndcg@10"] == pytest.approx(np.std(each, ddof=1), abs=1e-6)
    assert groups["popularity"].deviation["ndcg@10"] is None
    order = [group.mean["ndcg@10"] for group in found.groups]
    assert order == sorted(order, reverse=True)
    for pair in found.pairs:
        expected = groups[pair.better].mean[pair.metric] - groups[pair.worse].mean[pair.metric]
        assert pair.difference == pytest.approx(expected)
        assert pair.difference >= 0
        assert pair.interval[0] <= pair.difference <= pair.interval[1]
        assert 0 < pair.p_value <= 1
    assert len(found.pairs) == 3 * 2


def test_a_run_without_stored_scores_is_ranked_again(runs, tmp_path):
    copies = [shutil.copytree(runs[name], tmp_path / name, symlinks=True) for name in ("a0", "p")]
    before = compare(copies)
    for run in copies:
        (run / "users_test.npz").unlink()
    after = compare(copies)
    for a, b in zip(before.groups, after.groups, strict=True):
        assert a.mean == pytest.approx(b.mean, abs=1e-6)


def test_compare_prints_and_writes(runs, mmtk, tmp_path):
    names = [str(path) for path in runs.values()]
    target = tmp_path / "out"
    result = mmtk("recommend", "compare", *names, "-o", target, "-q")
    assert result.exit_code == 0, result.output
    assert "popularity" in result.stdout
    assert "±" in result.stdout
    markdown = (target / "comparison.md").read_text()
    best = max(json.loads((run / "results.json").read_text())["test"]["recall@20"] for run in runs.values())
    assert "**" in markdown
    assert (target / "comparison.png").read_bytes().startswith(b"\x89PNG")
    printed = json.loads(mmtk("recommend", "compare", *names, "--json", "--split", "validation", "-q").stdout)
    assert printed["split"] == "validation"
    stored = json.loads((target / "comparison.json").read_text())
    assert stored["groups"][0]["mean"]["recall@20"] <= best
    assert stored["users"] == printed["users"] == 80


@pytest.mark.usefixtures("no_report")
def test_what_cannot_be_compared_is_refused(runs, mmtk, tmp_path):
    one = mmtk("recommend", "compare", runs["a0"])
    assert (one.exit_code, "at least two runs" in one.stderr) == (2, True)
    metric = mmtk("recommend", "compare", runs["a0"], runs["p"], "--metric", "recall@7")
    assert (metric.exit_code, "not measured by every run" in metric.stderr) == (2, True)
    other = tmp_path / "other"
    assert mmtk("recommend", "train", "-c", "popularity", "--data", "demo", "-o", other, "-q").exit_code == 0
    mixed = mmtk("recommend", "compare", runs["a0"], other)
    assert (mixed.exit_code, "other interactions" in mixed.stderr) == (2, True)
    nowhere = mmtk("recommend", "compare", runs["a0"], tmp_path / "nowhere")
    assert (nowhere.exit_code, "not the folder of a run" in nowhere.stderr) == (2, True)
