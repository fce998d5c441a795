import json
import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from mmtoolkit.recommend.studies import scaling
from mmtoolkit.recommend.studies.scaling import Cost, fit_exponents
from mmtoolkit.recommend.studies.study import ABLATIONS, worker_pool

pytestmark = pytest.mark.usefixtures("no_report")

SMALL = ["-c", "tiny", "-q"]
for change in ("diffusion.hidden=8", "train.epochs=1", "model.embedding=4", "data.modalities={}"):
    SMALL += ["-s", change]


def test_ablation_continues_and_measures_each_part(mmtk, data_folder, tmp_path):
    folder = tmp_path / "study"
    command = ["recommend", "study", "ablation", *SMALL, "--data", data_folder, "--seeds", "1", "-o", folder]
    planned = json.loads(mmtk(*command, "--dry-run", "--json").stdout)["members"]
    assert "without history" not in {member["label"] for member in planned}  # it has none
    command += ["-s", "history.weight=1"]
    planned = json.loads(mmtk(*command, "--dry-run", "--json").stdout)["members"]
    assert [member["finished"] for member in planned] == [False] * len(ABLATIONS)
    assert not folder.exists()
    printed = json.loads(mmtk(*command, "--json").stdout)
    assert {group["label"] for group in printed["groups"]} == set(ABLATIONS)
    assert all((tmp_path / file).is_file() for file in printed["files"])
    written = {p: p.stat().st_mtime_ns for p in folder.glob("members/*/results.json")}
    stopped = folder / "members" / "without-guidance-s0" / "results.json"
    before = stopped.read_text()
    stopped.unlink()
    text = mmtk(*command).stdout
    assert "to full" in text or "to best" in text
    assert stopped.read_text() == before
    assert {p for p, t in written.items() if p.stat().st_mtime_ns != t} == {stopped}
    settings = (folder / "members" / "without-behavioural-condition-s0" / "config.yaml").read_text()
    assert "behaviour_condition: false" in settings
    refused = mmtk(*command, "-s", "model.layers=1")
    assert (refused.exit_code, "trained with other settings" in refused.stderr) == (2, True)


def test_ablation_refuses_other_models(mmtk, tmp_path):
    result = mmtk("recommend", "study", "ablation", "-c", "lightgcn", "-o", tmp_path / "s")
    assert (result.exit_code, "needs model.kind igdmrec" in result.stderr) == (2, True)


def test_robustness_with_the_peers(mmtk, data_folder, tmp_path):
    folder = tmp_path / "study"
    command = ["recommend", "study", "robustness", *SMALL, "--data", data_folder, "-o", folder]
    command += ["--links", "0.5", "--noise", "2", "--seeds", "1"]
    labels = [m["label"] for m in json.loads(mmtk(*command, "-n", "--json").stdout)["members"]]
    assert labels == [
        "igdmrec",
        "igdmrec false links 0.5",
        "igdmrec feature noise 2",
        "freedom",
        "freedom false links 0.5",
        "freedom feature noise 2",
        "lightgcn",
    ]
    result = mmtk(*command, "--json")
    assert result.exit_code == 0, result.output
    rows = {(r["model"], r["spoilt"], r["amount"]): r for r in json.loads(result.stdout)["rows"]}
    assert rows["freedom", "nothing", 0.0]["kept"] == 1
    stored = json.loads((folder / "members" / "freedom-false-links-0.5-s0" / "results.json").read_text())
    assert rows["freedom", "false links", 0.5]["mean"] == stored["test"]["recall@20"]
    assert (folder / "false_links.png").read_bytes().startswith(b"\x89PNG")
    assert "| lightgcn | nothing | 0 |" in (folder / "robustness.md").read_text()


def test_scaling_measures_each_size_once(mmtk, tmp_path, monkeypatch):
    monkeypatch.setattr(scaling, "worker_pool", ThreadPoolExecutor)  # other processes take seconds to start
    folder = tmp_path / "study"
    command = ["recommend", "study", "scaling", *SMALL, "--items", "100,200", "--users", "50", "-o", folder]
    printed = json.loads(mmtk(*command, "--json").stdout)
    assert [(cost["items"], cost["users"]) for cost in printed["costs"]] == [(100, 50), (200, 50)]
    assert all(cost["seconds"]["epoch"] > 0 for cost in printed["costs"])
    assert set(printed["exponents"]) == {"items"}
    times = {p: p.stat().st_mtime_ns for p in folder.glob("members/*")}
    assert "Cost grows" in mmtk(*command).stdout
    assert times == {p: p.stat().st_mtime_ns for p in folder.glob("members/*")}
    refused = mmtk(*command, "-s", "model.layers=1")
    assert (refused.exit_code, "measured with other settings" in refused.stderr) == (2, True)


@pytest.mark.parametrize("command", [["study", "ablation"], ["study", "robustness"], ["tune"]])
def test_settings_without_effect_are_reported_once(command, mmtk, tiny_folder, tmp_path):
    arguments = [*SMALL, "--data", tiny_folder, "-o", tmp_path / "s", "-n", "-s", "peers.ease_ridge=3"]
    result = mmtk("recommend", *command, *arguments)
    assert result.exit_code == 0, result.output
    (line,) = result.stderr.splitlines()
    assert line.endswith("--set peers.ease_ridge: without effect, as model.kind is igdmrec")


def test_workers_are_other_processes():
    with worker_pool(1) as pool:
        assert pool.submit(os.getpid).result() != os.getpid()


def test_exponents_of_known_powers():
    costs = [Cost(5, n, {"a": 2e-3 * n**2, "b": 7.0}, 100 * n) for n in (10, 20, 80)]
    found = fit_exponents("items", costs)
    assert found == pytest.approx({"a": 2, "b": 0, "memory": 1}, abs=1e-9)


@pytest.mark.parametrize(
    ("option", "text", "expected"),
    [
        ("--items", "10,x", "write numbers with commas"),
        ("--items", "0", "whole numbers from 1"),
        ("--users", "1.5", "whole numbers from 1"),
        ("--items", "-3", "must not lie below 0"),
    ],
)
def test_bad_sizes(mmtk, tmp_path, option, text, expected):
    result = mmtk("recommend", "study", "scaling", "-o", tmp_path / "s", f"{option}={text}")
    assert (result.exit_code, expected in result.stderr) == (2, True)
    assert not (tmp_path / "s").exists()
