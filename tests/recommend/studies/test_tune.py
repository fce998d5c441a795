import json
import sys

import pytest

from mmtoolkit.core.config import config_layer, flatten, preset_names, resolve
from mmtoolkit.core.errors import UsageError
from mmtoolkit.recommend.config import RecommendSettings
from mmtoolkit.recommend.studies.space import SPACES, Choice, Range, parse_space

SMALL = ["-c", "bpr-mf", "-s", "train.epochs=2", "-s", "model.embedding=4", "-q"]


def test_search_is_read():
    found = parse_space(["a.b=1:4", "c=0.1:10:log", "d=last|mean", "e=1|true"])
    assert found == {
        "a.b": Range(1, 4),
        "c": Range(0.1, 10, True),
        "d": Choice(("last", "mean")),
        "e": Choice((1, True)),
    }
    for text in ("a", "a=1", "a=[|2", "a=2:1", "a=0:1:log", "a=1:2:lin", "=1:2", "a=x:y"):
        with pytest.raises(UsageError, match="`search`"):
            parse_space([text])


@pytest.mark.parametrize("preset", preset_names("recommend"))
def test_every_preset_lies_in_its_search_space(preset):
    settings = resolve(RecommendSettings, [config_layer("recommend", preset)]).settings
    given = dict(flatten(settings.model_dump(mode="json")))
    outside = [n for n, values in SPACES[settings.model.kind].items() if not values.contains(given[n])]
    assert not outside


def test_tuning_continues_and_ends_in_a_preset_that_trains(mmtk, data_folder, tmp_path, monkeypatch):
    engine = sys.modules["mmtoolkit.recommend.training.loop"]
    ranked, score = [], engine.score_users
    monkeypatch.setattr(engine, "score_users", lambda *a: ranked.append(a[2]) or score(*a))
    folder = tmp_path / "tuned"
    command = ["recommend", "tune", *SMALL, "--data", data_folder, "-o", folder, "--json"]
    command += ["--search", "train.learning_rate=1e-3:0.5:log", "--search", "model.embedding=4|8"]
    first = mmtk(*command, "--trials", "2")
    assert first.exit_code == 0, first.output
    assert json.loads(first.stdout)["trials"] == {"complete": 2, "pruned": 0, "fail": 0}
    second = json.loads(mmtk(*command, "--trials", "4").stdout)
    assert sum(second["trials"].values()) == 4
    assert set(ranked) == {"validation"}
    trials = json.loads((folder / "tune.json").read_text())["trials"]
    assert trials[0]["train.learning_rate"] == 0.001  # the search starts from the preset itself
    assert len({trial["train.learning_rate"] for trial in trials}) == 4
    assert second["metrics"]["recall@20"] == max(t["value"] for t in trials if t["value"] is not None)
    assert (folder / "tune.png").read_bytes().startswith(b"\x89PNG")
    preset = folder / "best.yaml"
    assert preset.read_text().startswith("# Tuned on the validation split only")
    run = mmtk("recommend", "train", "-c", preset, "-o", tmp_path / "run", "--json", "-q")
    assert json.loads(run.stdout)["validation"]["recall@20"] == second["metrics"]["recall@20"]
    refused = mmtk(*command, "-s", "model.layers=1")
    assert (refused.exit_code, "holds a search from other settings" in refused.stderr) == (2, True)


def test_the_budget_in_minutes_ends_a_search(mmtk, data_folder, tmp_path):
    command = ["recommend", "tune", *SMALL, "--data", data_folder, "-o", tmp_path / "t"]
    late = mmtk(*command, "--minutes", "0")
    assert (late.exit_code, "no trial was finished" in late.stderr) == (1, True)
    assert mmtk(*command, "--trials", "1").exit_code == 0


def test_a_diverging_trial_fails_alone(mmtk, data_folder, tmp_path):
    command = ["recommend", "tune", *SMALL, "--data", data_folder, "-o", tmp_path / "t", "--trials", "3"]
    found = json.loads(mmtk(*command, "--search", "train.learning_rate=0.001|1e30", "--json").stdout)
    assert found["trials"]["complete"] >= 1
    assert found["values"]["train.learning_rate"] == 0.001


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["-c", "popularity"], "has no settings to search"),
        (["--search", "train.learning_rat=1:2"], "did you mean 'train.learning_rate'"),
        (["--search", "diffusion.dropout=0.1:2.0"], "diffusion.dropout"),
        (["--search", "model.layers=4"], "write KEY=LOW:HIGH"),
    ],
)
def test_bad_searches_write_nothing(mmtk, tmp_path, arguments, expected):
    result = mmtk("recommend", "tune", "--data", "demo", "-o", tmp_path / "t", *arguments)
    assert (result.exit_code, expected in result.stderr) == (2, True)
    assert not (tmp_path / "t").exists()


def test_dry_run_shows_the_space(mmtk, tmp_path):
    printed = mmtk("recommend", "tune", "-c", "ease", "-o", tmp_path / "t", "--dry-run", "--json").stdout
    assert "peers.ease_ridge" in json.loads(printed)["space"]
    assert "to search" in mmtk("recommend", "tune", "-o", tmp_path / "t", "-n").stdout.lower()


def test_without_optuna_the_extra_is_named(mmtk, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    result = mmtk("recommend", "tune", "-c", "ease", "--data", "demo", "-o", tmp_path / "t")
    assert (result.exit_code, "[tune]'" in result.stderr) == (2, True)
