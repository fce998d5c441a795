import csv
import io
import json
import shutil

import pytest

SMALL = ["-c", "tiny", "-s", "graph.co_occurrence_threshold=2", "-s", "diffusion.batch_size=32", "-q"]


@pytest.fixture(scope="module")
def trained(mmtk, tiny_folder, tmp_path_factory):
    """A finished run, which tests only read, and what the command printed."""
    run = tmp_path_factory.mktemp("trained") / "run"
    result = mmtk("recommend", "train", *SMALL, "--data", tiny_folder, "-o", run, "--json")
    assert result.exit_code == 0, result.output
    return run, json.loads(result.stdout)


def test_train_eval_predict(trained, mmtk, tiny_data, tmp_path):
    run, printed = trained
    for name in [
        "config.yaml",
        "command.txt",
        "env.json",
        "run.log",
        "metrics.jsonl",
        "results.json",
        "report.html",
    ]:
        assert (run / name).is_file(), name
    assert printed["command"] == "recommend train"
    assert printed["run"] == str(run)
    assert set(printed["metrics"]) >= {"recall@20", "ndcg@20"}
    evaluated = json.loads(mmtk("recommend", "eval", "--checkpoint", run, "--json", "-q").stdout)
    assert evaluated["metrics"].items() >= printed["metrics"].items()
    table = mmtk("recommend", "eval", "--checkpoint", run, "--split", "validation", "-q").stdout
    assert f"{printed['validation']['recall@20']:.4f}" in table

    text = mmtk("recommend", "predict", "--checkpoint", run, "--users", "3", "8", "--top-k", "4", "-q").stdout
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [(row["user"], row["rank"]) for row in rows] == [(u, str(r)) for u in "38" for r in range(1, 5)]
    for row in rows:
        assert tiny_data.train[int(row["user"]), int(row["item"])] == 0
    users = tmp_path / "users.txt"
    users.write_text("8\n\n3\n")
    target = tmp_path / "top.jsonl"
    result = mmtk("recommend", "predict", "--checkpoint", run, "--users", users, "-o", target, "--json", "-q")
    assert json.loads(result.stdout)["files"] == [str(target)]
    lists = [json.loads(line) for line in target.read_text().splitlines()]
    assert [one["user"] for one in lists] == [8, 3]
    assert lists[1]["items"][:4] == [int(row["item"]) for row in rows[:4]]
    assert len(lists[0]["items"]) == 20
    everyone = tmp_path / "all.csv"
    assert mmtk("recommend", "predict", "--checkpoint", run, "-o", everyone, "-q").exit_code == 0
    assert len(everyone.read_text().splitlines()) == 1 + 80 * 20


def test_resume_through_the_command_line(trained, mmtk, tmp_path):
    run = shutil.copytree(trained[0], tmp_path / "run", symlinks=True)
    result = mmtk("recommend", "train", "--resume", run, "-s", "train.epochs=3", "--json", "-q")
    assert json.loads(result.stdout)["epochs"] == 3
    assert [json.loads(x)["epoch"] for x in (run / "metrics.jsonl").read_text().splitlines()] == [1, 2, 3]
    refused = mmtk("recommend", "train", "--resume", run, "-s", "model.layers=1")
    assert refused.exit_code == 2
    assert "model.layers cannot change" in refused.stderr
    assert mmtk("recommend", "train", "--resume", run, "-c", "demo").exit_code == 2


def test_dry_run_prints_sizes_and_writes_nothing(mmtk, tiny_folder, tmp_path):
    run = tmp_path / "run"
    arguments = ["recommend", "train", *SMALL, "--data", tiny_folder, "-o", run, "-n"]
    assert "items" in mmtk(*arguments).stdout
    facts = json.loads(mmtk(*arguments, "--json").stdout)
    assert facts["items"] == 60
    assert facts["steps_cdnet"] == 2
    assert not run.exists()


@pytest.mark.parametrize(
    ("kind", "given", "idle"),
    [
        ("ease", ["diffusion.hidden=64", "peers.ease_ridge=9"], "diffusion.hidden"),
        (
            "ease",
            ["train.epochs=3", "train.monitor=ndcg@20", "history.weight=1"],
            "train.epochs history.weight",
        ),
        ("vbpr", ["model.layers=1", "model.embedding=8"], "model.layers"),
        ("igdmrec", ["diffusion.hidden=64", "peers={ease_ridge: 9}"], "peers.ease_ridge"),
        ("igdmrec", ["diffusion.hidden=64", "history.weight=1"], ""),
        ("popularity", ["seed=3", "evaluate.top_k=[20]"], ""),
    ],
)
def test_settings_without_effect_are_reported(kind, given, idle, mmtk, tiny_folder, tmp_path):
    file = tmp_path / "several.yaml"
    file.write_text("diffusion: {hidden: 32}\npeers: {ease_ridge: 5, knn_neighbours: 7}\n")
    sets = [part for one in [f"model.kind={kind}", *given] for part in ("-s", one)]
    result = mmtk("recommend", "train", "-c", file, *sets, "--data", tiny_folder, "-n", "-q")
    assert result.exit_code == 0, result.output
    expected = [f"--set {name}: without effect, as model.kind is {kind}" for name in idle.split()]
    assert [line.partition(" ")[2] for line in result.stderr.splitlines()] == expected


def test_output_in_use_is_refused_and_kept(trained, mmtk, tiny_folder):
    run, _ = trained
    before = {p.name for p in run.iterdir()}
    result = mmtk("recommend", "train", *SMALL, "--data", tiny_folder, "-o", run)
    assert result.exit_code == 2
    assert f"--resume {run}" in result.stderr
    assert {p.name for p in run.iterdir()} == before


def test_a_table_and_the_report_end_a_run(mmtk, tiny_folder, tmp_path):
    command = ["recommend", "train", "-c", "popularity", "--data", tiny_folder, "-o", tmp_path / "r", "-q"]
    result = mmtk(*command)
    assert "recall@20" in result.stdout
    assert result.stdout.strip().splitlines()[-1].split() == ["report", str(tmp_path / "r" / "report.html")]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--users", "80"], "--users 80: no such user; ids run from 0 to 79"),
        (["--users", "bob"], "--users bob: neither a file nor a user id"),
        (["-o", "x.txt"], "name it .csv, .jsonl or .parquet"),
        (["-o", "nowhere/x.csv"], "no folder nowhere"),
        (["--json"], "--json needs --output"),
        (["--data", "demo"], "other interactions"),
    ],
)
def test_bad_predict_arguments(trained, mmtk, arguments, expected):
    run, _ = trained
    result = mmtk("recommend", "predict", "--checkpoint", run, "-q", *arguments)
    assert result.exit_code == 2
    assert expected in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_bad_line_in_a_users_file(trained, mmtk, tmp_path):
    users = tmp_path / "users.txt"
    users.write_text("1\nx\n")
    result = mmtk("recommend", "predict", "--checkpoint", trained[0], "--users", users)
    assert result.exit_code == 2
    assert f"{users}:2: 'x' is no user id" in result.stderr


@pytest.mark.parametrize("where", ["nowhere", "."])
def test_no_such_run(mmtk, where, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = mmtk("recommend", "eval", "--checkpoint", where)
    assert result.exit_code == 2
    assert len(result.stderr.strip().splitlines()) == 1
