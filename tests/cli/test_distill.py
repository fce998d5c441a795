import importlib
import json
import warnings
from typing import get_args

import numpy as np
import pytest
from mmtoolkit.commands.app import app
from mmtoolkit.commands.distill.options import ExportFormat, ExportPrecision, FamilyName
from PIL import Image
from typer.testing import CliRunner

from mmtoolkit.distill.data.synthetic import make_shapes


def opened(path):
    """Return a picture's pixels, size and the settings in it."""
    with Image.open(path) as image:
        return np.asarray(image).astype(int), image.size, json.loads(image.text["mmtk"])


@pytest.fixture(scope="module")
def npz(tmp_path_factory):
    images, captions = make_shapes(16, seed=1)
    path = tmp_path_factory.mktemp("data") / "small.npz"
    np.savez(path, images=images, captions=np.array(captions))
    return path


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    """A TorchScript of six numbers a picture."""
    import torch

    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 6, 8, stride=8), torch.nn.AdaptiveAvgPool2d(1))
    path = tmp_path_factory.mktemp("features") / "six.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.trace(network, torch.zeros(2, 3, 32, 32)).save(str(path))
    return path


@pytest.fixture(scope="module")
def runs(npz, tmp_path_factory):
    """A teacher and a student, made through the command line."""
    folder = tmp_path_factory.mktemp("runs")
    printed = {}
    for command, more in (("teach", []), ("train", ["--base", folder / "teach"])):
        arguments = [
            "distill",
            command,
            "-c",
            "tiny",
            "--data",
            npz,
            "-o",
            folder / command,
            "--json",
            "-q",
            *more,
        ]
        result = CliRunner().invoke(app, [str(a) for a in arguments])
        assert result.exit_code == 0, result.output
        printed[command] = json.loads(result.stdout)
    return folder, printed


def test_teach_and_train_say_what_they_made(runs):
    folder, printed = runs
    assert printed["teach"]["steps"] == 4
    assert (folder / "teach" / "teacher.safetensors").is_file()
    assert printed["train"]["command"] == "distill train"
    assert printed["train"]["metrics"]["loss"] > 0
    assert (folder / "train" / "report.html").is_file()


def test_sample_writes_pictures_with_their_settings(runs, mmtk, tmp_path):
    folder, _ = runs
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("two small red stars on black\n\n")
    arguments = ["distill", "sample", "--checkpoint", folder / "train", "--prompts", prompts, "--seed", "3"]
    arguments += ["--prompt", "a large blue circle at the top on white", "--eta", "0.3", "--guidance", "4"]
    result = mmtk(
        *arguments, "--steps", "5", "--schedule", "non_equidistant", "-o", tmp_path / "x", "--json", "-q"
    )
    assert result.exit_code == 0, result.output
    files = json.loads(result.stdout)["files"]
    assert [name.rsplit("/", 1)[1] for name in files] == ["grid.png", "0000.png", "0001.png"]
    _, size, facts = opened(files[1])
    assert facts["text"] == "a large blue circle at the top on white"
    assert (facts["steps"], facts["eta"], facts["guidance"], facts["seed"]) == (5, 0.3, 4, 3)
    assert size == (32, 32)
    one = mmtk(*arguments, "--count", "1", "-o", tmp_path / "y", "-q", "--no-grid")
    assert one.exit_code == 0
    assert [p.name for p in (tmp_path / "y").iterdir()] == ["0000.png"]


def test_a_seed_draws_the_same_picture_whatever_the_count(runs, mmtk, tmp_path):
    folder, _ = runs
    text = "a large blue circle at the top on white"
    for count in (1, 3):
        arguments = ["--prompt", text, "--count", count, "-o", tmp_path / str(count), "-q"]
        assert mmtk("distill", "sample", "--checkpoint", folder / "train", *arguments).exit_code == 0
    first, other = (opened(tmp_path / str(c) / "0000.png")[0] for c in (1, 3))
    assert abs(first - other).max() <= 1


def test_eval_measures_every_cell(runs, features, mmtk):
    folder, _ = runs
    small = [
        "-s",
        f"evaluate.features={features}",
        "-s",
        "evaluate.samples=12",
        "-s",
        "evaluate.steps=[1,4]",
        "-s",
        "evaluate.eta=[0.3]",
    ]
    arguments = ["distill", "eval", "--checkpoint", folder / "train", *small, "-q"]
    found = json.loads(mmtk(*arguments, "--json").stdout)["metrics"]
    for name in ("fid", "kid", "fid_data", "precision", "recall", "trajectory_error", "seconds_picture"):
        assert f"{name}@4,eta=0.3,guidance=2" in found
    assert "teacher,fid_data@guidance=4" in found
    refused = mmtk("distill", "eval", "--checkpoint", folder / "train", "-s", "train.steps=9")
    assert refused.exit_code == 2
    assert "only evaluate.* can change" in refused.stderr
    refused = mmtk(*arguments[:-1], "-s", "evaluate.features=nowhere.pt")
    assert refused.exit_code == 2
    assert "nowhere.pt: no such file" in refused.stderr


@pytest.fixture(scope="module")
def compared(runs, npz, features, tmp_path_factory):
    """A comparison of three rules: its folder, its arguments and its metrics."""
    teacher, folder = runs[0] / "teach", tmp_path_factory.mktemp("compared") / "c"
    arguments = ["distill", "compare", "-c", "tiny", "--data", npz, "--base", teacher, "--json", "-q"]
    for change in (f"features={features}", "samples=8", "eta=[0]"):
        arguments += ["-s", f"evaluate.{change}"]
    rules = [word for rule in ("tdd", "tdd-coupled", "lcm") for word in ("--rule", rule)]
    more = ["-s", "evaluate.steps=[1,2]", *rules, "-o", folder]
    result = CliRunner().invoke(app, [str(word) for word in (*arguments, *more)])
    assert result.exit_code == 0, result.output
    return folder, arguments, json.loads(result.stdout)["metrics"]


def test_compare_trains_all_rules(compared):
    folder, _, metrics = compared
    assert {"tdd,fid@2,eta=0,guidance=2", "lcm,trajectory_error@1,eta=0,guidance=4"} <= set(metrics)
    for name in ("report.html", "tables.md", "tdd-s0.png", "plots/fid.png", "plots/guidance-2.png"):
        assert (folder / name).is_file(), name
    drops = [(folder / f"{rule}-s0/config.yaml").read_text() for rule in ("tdd", "tdd-coupled")]
    assert ["drop: 0.0" in text for text in drops] == [False, True]


def test_a_comparison_continues_without_training_again(compared, mmtk):
    folder, _, metrics = compared
    log = folder / "tdd-s0" / "metrics.jsonl"
    before = log.read_bytes()
    resumed = mmtk("distill", "compare", "--resume", folder, "--rule", "tdd", "--json", "-q")
    assert resumed.exit_code == 0, resumed.output
    name = "tdd,fid@2,eta=0,guidance=2"
    assert json.loads(resumed.stdout)["metrics"][name] == pytest.approx(metrics[name])
    assert log.read_bytes() == before


def test_compare_takes_an_existing_run(compared, mmtk, tmp_path):
    folder, arguments, metrics = compared
    more = ["-s", "evaluate.steps=[2]", "--rule", "tdd", "-o", tmp_path / "t"]
    taken = mmtk(*arguments, *more, "--take", f"tdd={folder / 'tdd-s0'}")
    assert taken.exit_code == 0, taken.output
    name = "tdd,fid@2,eta=0,guidance=2"
    assert json.loads(taken.stdout)["metrics"][name] == pytest.approx(metrics[name])
    assert not (tmp_path / "t" / "tdd-s0").exists()


def test_compare_refuses_an_unknown_rule(mmtk, tmp_path):
    refused = mmtk("distill", "compare", "-c", "tiny", "--rule", "tddd", "-o", tmp_path / "d")
    assert refused.exit_code == 2
    assert "--rule: no rule 'tddd'; did you mean 'tdd'?" in refused.stderr


@pytest.mark.parametrize(
    ("take", "changes", "message"),
    [
        ("tdd={run}", ["targets.guidance=2"], "has targets.guidance"),
        ("tdd={run}", ["model.base=shapes"], "has model.base"),
        ("lcm={run}", [], "has targets.rule tdd, but this comparison needs lcm"),
        ("tdd={run}/checkpoints", [], "not the folder of a run"),
        ("tddd={run}", [], "write RULE=RUN"),
        ("tdd", [], "write RULE=RUN"),
    ],
)
def test_compare_refuses_to_take_what_cannot_be_compared(take, changes, message, runs, npz, mmtk, tmp_path):
    folder, _ = runs
    arguments = ["distill", "compare", "-c", "tiny", "--data", npz, "-s", f"model.base={folder / 'teach'}"]
    arguments += ["--take", take.format(run=folder / "train"), "-o", tmp_path / "x"]
    refused = mmtk(*arguments, *(word for change in changes for word in ("-s", change)))
    assert refused.exit_code == 2, refused.output
    assert message in refused.stderr
    assert not (tmp_path / "x").exists()


def test_dry_run_writes_nothing(runs, npz, mmtk, tmp_path):
    folder, _ = runs
    for command, more in (("teach", []), ("train", ["--base", folder / "teach"])):
        result = mmtk(
            "distill", command, "-c", "tiny", "--data", npz, *more, "-o", tmp_path / "x", "-n", "--json"
        )
        assert json.loads(result.stdout)["steps"] == 4
        assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--prompt", "a red hexagon"], "never read 'hexagon'"),
        (["--prompts", "nowhere.txt"], "--prompts nowhere.txt: cannot be read"),
        (["--steps", "300", "--prompt", "a red star"], "knows 250 at most"),
        (["--checkpoint", "nowhere"], "nowhere: no such run or file"),
        (["--lora-scale", "0.5", "--prompt", "a red star"], "is a pixel student, which states its own"),
        (["--base", "nowhere", "--prompt", "a red star"], "nowhere: no such teacher"),
    ],
)
def test_bad_sample_arguments(runs, mmtk, arguments, expected, tmp_path):
    folder, _ = runs
    checkpoint = [] if "--checkpoint" in arguments else ["--checkpoint", folder / "train"]
    result = mmtk("distill", "sample", *checkpoint, *arguments, "-o", tmp_path / "x", "-q")
    assert result.exit_code == 2, result.output
    assert expected in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "x").exists()


def test_sample_refuses_a_folder_in_use_before_it_draws(mmtk, monkeypatch, tmp_path):
    engine = importlib.import_module("mmtoolkit.distill.sample")
    monkeypatch.setattr(engine, "sample", lambda *_, **__: pytest.fail("it was drawn"))
    (tmp_path / "x").write_text("")
    refused = mmtk("distill", "sample", "-o", tmp_path)
    assert refused.exit_code == 2
    assert "already there and not empty" in refused.stderr


def test_the_command_line_offers_what_the_engine_knows():

    from mmtoolkit.distill.config import ModelSettings
    from mmtoolkit.distill.export import Format, Precision
    from mmtoolkit.distill.models.families import FAMILIES

    offered = [get_args(choices) for choices in (FamilyName, ExportFormat, ExportPrecision)]
    families = get_args(ModelSettings.model_fields["family"].annotation)
    assert families == ("pixel", *FAMILIES)
    assert offered == [families, get_args(Format), get_args(Precision)]
