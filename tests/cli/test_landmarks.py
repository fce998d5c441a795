import json

import numpy as np
import pytest

from mmtoolkit.landmarks.data import write_jd
from mmtoolkit.landmarks.synthetic import render_faces


@pytest.fixture(scope="module")
def jd(tmp_path_factory):
    folder = tmp_path_factory.mktemp("jd") / "set"
    write_jd(folder, render_faces(6, 96, seed=2))
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return tmp_path_factory.mktemp("run") / "tiny"


def test_train_eval_predict_export(mmtk, jd, run, tmp_path):
    done = mmtk("landmarks", "train", "-c", "tiny", "-o", run, "--device", "cpu", "--json", "-q")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["epochs"] == 2

    again = mmtk("landmarks", "train", "--resume", run, "--json", "-q")
    assert json.loads(again.stdout)["metrics"] == json.loads(done.stdout)["metrics"]

    scored = mmtk(
        "landmarks", "eval", "--data", jd, "--checkpoint", run, "-o", tmp_path / "e", "--json", "-q"
    )
    assert json.loads(scored.stdout)["metrics"]["faces"] == 6
    assert {"ced.png", "worst.jpg", "errors.csv"} == {p.name for p in (tmp_path / "e").iterdir()}

    out = tmp_path / "out"
    kinds = ["--format", "txt", "--format", "overlay"]
    found = mmtk(
        "landmarks", "predict", jd / "picture", "--checkpoint", run, "-o", out, *kinds, "--json", "-q"
    )
    assert json.loads(found.stdout)["faces"] == 6
    assert len(list((out / "txt").iterdir())) == 6

    ready = mmtk("landmarks", "eval", out / "txt", "--data", jd, "-q")
    assert "missing" in ready.stdout
    compared = mmtk("landmarks", "compare", run, out / "txt", "--data", jd, "--json", "-q")
    assert [c["metric"] for c in json.loads(compared.stdout)["comparisons"]] == ["nme", "auc"]

    submitted = mmtk("landmarks", "submit", "--data", jd, "--checkpoint", run, "-o", tmp_path / "s.zip", "-q")
    assert "6 predictions" in submitted.stdout
    assert mmtk("landmarks", "eval", tmp_path / "s.zip", "--data", jd, "--79", "-q").exit_code == 0

    network = tmp_path / "net.safetensors"
    assert (
        mmtk(
            "landmarks", "export", "--checkpoint", run, "--format", "safetensors", "-o", network, "-q"
        ).exit_code
        == 0
    )
    picture = sorted((jd / "picture").iterdir())[0]
    shown = mmtk("landmarks", "predict", picture, "--checkpoint", network, "--json", "-q")
    assert np.shape(json.loads(shown.stdout)["pictures"][0]["faces"][0]["points"]) == (106, 2)


def test_dry_run_writes_nothing(mmtk, jd, tmp_path):
    done = mmtk(
        "landmarks", "train", "-c", "tiny", "--data", jd, "--dry-run", "--json", "-o", tmp_path / "run"
    )
    assert json.loads(done.stdout)["rendered"] == 32
    assert not (tmp_path / "run").exists()


def test_convert_and_profile(mmtk, jd, tmp_path):
    done = mmtk("landmarks", "convert", jd, "--to", "wflw98", "--format", "wflw", "-o", tmp_path / "list.txt")
    assert "wflw98 points of 6 faces" in done.stdout
    misnamed = mmtk("landmarks", "convert", jd, "-o", tmp_path / "list.csv")
    assert misnamed.exit_code == 2
    assert "needs a new .json file" in misnamed.stderr
    costs = mmtk("landmarks", "profile", "-c", "tiny", "--json")
    assert json.loads(costs.stdout)["parameters"] > 1000


def test_points_are_drawn(mmtk, tmp_path):
    assert mmtk("landmarks", "points", "-o", tmp_path / "points.png").exit_code == 0
    assert (tmp_path / "points.png").stat().st_size > 20_000
    assert mmtk("landmarks", "points", "-o", tmp_path / "points.png").exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["eval", "--data", "nowhere", "--checkpoint", "nowhere"], "no such run"),
        (["predict", "nowhere.jpg", "--checkpoint", "nowhere"], "no such run"),
        (["predict", "a.jpg", "--box", "1,2,3"], "left,top,right,bottom"),
        (["eval", "p.zip", "--data", "d", "--checkpoint", "c"], "not both"),
        (["profile", "-c", "tiny", "--checkpoint", "c"], "not both"),
        (["train", "-c", "compct"], "did you mean 'compact'"),
        (["train", "-c", "tiny", "-s", "augment.rotate=3"], "did you mean"),
        (["train", "-c", "tiny", "--data", "nowhere"], "no such file or folder"),
        (["convert", "nowhere", "-o", "x.json"], "no such file or folder"),
    ],
)
def test_mistakes_are_told_in_a_line(mmtk, arguments, message):
    done = mmtk("landmarks", *arguments)
    assert done.exit_code == 2
    assert message in done.stderr
