"""The table of what each command reads, against what it does read."""

import sys

import numpy as np
import pytest

from mmtoolkit.core.config import idle_settings, resolve, set_layers, setting_names
from mmtoolkit.distill.config import READ_BY, DistillSettings
from mmtoolkit.distill.data.synthetic import make_shapes
from mmtoolkit.distill.evaluate import evaluate
from mmtoolkit.distill.teach import teach
from mmtoolkit.distill.train import train

NAMES = list(setting_names(DistillSettings))
SMALL = [
    "teach.steps=1",
    "teach.batch_size=2",
    "train.steps=1",
    "train.batch_size=2",
    "network.channels=[8,8]",
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    images, captions = make_shapes(8, seed=1)
    path = tmp_path_factory.mktemp("data") / "small.npz"
    np.savez(path, images=images, captions=np.array(captions))
    return f"data.path={path}"


def settings(*changes):
    return resolve(DistillSettings, set_layers([*SMALL, *changes])).settings


def test_teach_reads_what_the_table_says(data, tmp_path, record_reads):
    read, chosen = record_reads(DistillSettings), settings(data)
    teach(chosen, tmp_path / "run")
    assert idle_settings(chosen, read, READ_BY, "teach") == {}
    assert {"network.channels", "teach.ema", "data.path"} <= read


@pytest.mark.parametrize(
    "changes",
    [
        ["targets.rule=lcm"],
        ["targets.rule=pcm", "model.adapter=full"],
        ["targets.rule=tcd"],
        ["targets.rule=tdd", "targets.eta=0.3"],
    ],
    ids=" ".join,
)
def test_train_and_eval_read_what_the_table_says(changes, data, tmp_path, record_reads):
    read, chosen = record_reads(DistillSettings), settings(data, *changes)
    train(chosen, tmp_path / "run")
    used = {name for name in read if not name.startswith("network.")}  # those are the teacher's own
    assert idle_settings(chosen, used, READ_BY, "train") == {}
    assert {"targets.rule", "train.ema", "model.base"} <= read
    read.clear()
    few = set_layers(
        ["evaluate.samples=8", "evaluate.steps=[1]", "evaluate.eta=[0]", "evaluate.guidance=[1]"]
    )
    evaluate(tmp_path / "run", few)
    used = {name for name in read if not name.startswith("network.")}
    assert idle_settings(chosen, used, READ_BY, "eval") == {}
    assert "evaluate.steps" in read


def test_the_table_names_settings_that_exist():
    for start, (deciding, readers) in READ_BY.items():
        assert [name for name in NAMES if name.startswith(start)]
        assert deciding == "command" or deciding in NAMES
        assert readers


def test_eval_builds_no_trainer(data, tmp_path, monkeypatch):
    train(settings(data), tmp_path / "run")
    state = sys.modules["mmtoolkit.distill.training.state"]
    for name in ("set_up", "restore", "make_accelerator", "Average"):
        monkeypatch.delattr(state, name)
    few = set_layers(
        ["evaluate.samples=8", "evaluate.steps=[1]", "evaluate.eta=[0]", "evaluate.guidance=[1]"]
    )
    assert evaluate(tmp_path / "run", few).cells
