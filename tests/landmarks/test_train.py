import json
import os
import signal
import socket
import sys
import warnings
from multiprocessing import get_context

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState

from mmtoolkit.core.checkpoint import load_checkpoint
from mmtoolkit.core.config import idle_settings, setting_names
from mmtoolkit.core.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    DivergenceError,
    StoppedError,
    UsageError,
)
from mmtoolkit.core.run import BEST, RunDirectory
from mmtoolkit.landmarks.config import READ_BY, LandmarkSettings
from mmtoolkit.landmarks.evaluate import evaluate
from mmtoolkit.landmarks.load import load
from mmtoolkit.landmarks.train import describe_work, train

SMALL = ["data.rendered=8", "data.rendered_validation=2", "train.batch_size=4", "train.epochs=3"]


def run_of(tmp_path, resolved, name="run"):
    return RunDirectory.new(tmp_path / name, resolved.to_yaml())


@pytest.fixture(scope="module")
def finished(landmark_settings, tmp_path_factory, without_report):
    """A run of three epochs."""
    resolved = landmark_settings(*SMALL)
    run = run_of(tmp_path_factory.mktemp("finished"), resolved)
    with without_report():
        train(resolved.settings, run)
    return run


def test_a_dozen_faces_are_learnt_by_heart(trained, jd_folder):
    path, result = trained
    assert result.metrics["nme"] < 0.045  # half a pixel of the 32 pixel crop is 2.4 %
    evaluation = evaluate(load(path, "cpu"), jd_folder)
    assert evaluation.metrics["nme"] == pytest.approx(result.metrics["nme"], rel=1e-3)
    assert json.loads((path / "results.json").read_text())["best_epoch"] == result.best_epoch
    assert (path / "report.html").stat().st_size > 10_000


@pytest.mark.usefixtures("no_report")
def test_a_resumed_run_has_the_same_bits(finished, landmark_settings, tmp_path):
    cut = landmark_settings(*SMALL, "train.stop_after=1")
    train(cut.settings, tmp_path / "parts")
    torch.rand(3), np.random.random()
    train(landmark_settings(*SMALL).settings, tmp_path / "parts", resume=True)
    parts = RunDirectory.open(tmp_path / "parts")
    one, two = (load_checkpoint(run.checkpoint()) for run in (finished, parts))
    assert one.meta == two.meta
    for name, tensor in one.model.items():
        assert torch.equal(tensor, two.model[name]), name
    for name, tensor in one.state["model"].items():
        assert torch.equal(tensor, two.state["model"][name]), name
    losses = [[r["loss"] for r in run.read_metrics()] for run in (finished, parts)]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 3


def test_a_path_is_a_new_run_unless_resumed(finished, landmark_settings):
    with pytest.raises(UsageError, match="not empty"):
        train(landmark_settings(*SMALL).settings, finished.path)


def test_other_faces_are_refused_on_resume(finished, landmark_settings):
    other = landmark_settings(*SMALL, "data.rendered=4").settings
    with pytest.raises(CheckpointError, match="trained on other faces"):
        train(other, finished.path, resume=True)


@pytest.mark.usefixtures("no_report")
def test_a_run_may_start_from_another(finished, landmark_settings, tmp_path):
    changes = ["train.learning_rate=1e-12", "train.epochs=1", f"train.start={finished.path}"]
    second = run_of(tmp_path, landmark_settings(*SMALL, *changes), "second")
    train(landmark_settings(*SMALL, *changes).settings, second)
    one, two = (load_checkpoint(run.checkpoint(which)).model
                for run, which in ((finished, BEST), (second, "last")))  # fmt: skip
    learnt = [name for name in one if "running" not in name and "tracked" not in name]
    assert all(torch.allclose(one[name], two[name], atol=1e-5) for name in learnt)
    other = landmark_settings(*SMALL, "model.stem=4", f"train.start={finished.path}")
    with pytest.raises(CheckpointError):
        train(other.settings, run_of(tmp_path, other, "third"))
    assert not (tmp_path / "third").exists()


@pytest.mark.usefixtures("no_report")
def test_a_signal_ends_the_run_after_the_epoch(landmark_settings, tmp_path, monkeypatch):
    """The epoch's checkpoint is written, although only every third is planned."""
    resolved = landmark_settings(*SMALL, "train.checkpoint_every=3")
    run = run_of(tmp_path, resolved)
    loop = sys.modules["mmtoolkit.landmarks.training.loop"]
    epoch = loop.train_epoch

    def interrupted(training):
        os.kill(os.getpid(), signal.SIGTERM)
        return epoch(training)

    monkeypatch.setattr(loop, "train_epoch", interrupted)
    with pytest.raises(StoppedError, match="after epoch 1") as error:
        train(resolved.settings, run)
    assert error.value.exit_code == 143
    assert load_checkpoint(run.checkpoint()).meta["step"] == 1


FAN = [
    *("model.kind=fan", "model.size=64", "data.rendered=2", "data.rendered_validation=1"),
    *("train.batch_size=2", "loss.points_weight=0", "train.gradient_clip=1000", "train.learning_rate=0.002"),
]


@pytest.mark.parametrize(
    "changes",
    [
        ["model.head=integral", "loss.points=l1", "data.rendered=16", "train.batch_size=8"],
        ["loss.points=wing", "precision=bfloat16", "data.validation=[JD]"],
        ["model.stages=[{block: mobile, channels: 8}, {channels: 8}]", "train.ema=0"],
        FAN,
    ],
    ids=["integral", "wing", "mobile", "fan"],
)
@pytest.mark.usefixtures("no_report")
def test_every_kind_of_network_trains(landmark_settings, tmp_path, jd_folder, record_reads, changes):
    """The loss falls, and settings that have no effect according to READ_BY are not read."""
    changes = [change.replace("JD", str(jd_folder)) for change in changes]
    resolved = landmark_settings(*SMALL, "train.epochs=2", "train.learning_rate=0.01", *changes)
    run = run_of(tmp_path, resolved)
    read = record_reads(LandmarkSettings)
    train(resolved.settings, run)
    losses = [record["loss"] for record in run.read_metrics()]
    assert losses[1] < losses[0]
    assert load(run.path, "cpu").settings == resolved.settings.model
    names = list(setting_names(LandmarkSettings))
    idle = idle_settings(resolved.settings, names, READ_BY, "train").keys()
    assert idle & read == set()
    unread = {"data.holdout", "train.checkpoint_every"}  # no photographs to hold out, no epoch but the best
    assert set(names) - read - unread == idle - unread


def test_a_loss_that_is_not_finite_stops_the_run(landmark_settings, tmp_path):
    resolved = landmark_settings(
        *SMALL, "train.learning_rate=1e30", "train.gradient_clip=1e30", "train.warmup=0"
    )
    with pytest.raises(DivergenceError, match=r"step \d: the loss is .*; lower train\.learning_rate"):
        train(resolved.settings, run_of(tmp_path, resolved))


def test_nothing_is_written_for_bad_data(landmark_settings, tmp_path):
    resolved = landmark_settings(f"data.path={tmp_path / 'nowhere'}")
    run = run_of(tmp_path, resolved)
    with pytest.raises(DataError, match="no such file"):
        train(resolved.settings, run)
    assert not run.path.exists()
    with pytest.raises(ConfigError, match="nothing to learn from"):
        landmark_settings("data.rendered=0")


def test_sizes_of_the_work(landmark_settings, jd_folder):
    facts = describe_work(landmark_settings(f"data.path={jd_folder}", "data.holdout=0").settings)
    assert (facts["photographs"], facts["rendered"], facts["steps"]) == (12, 32, 2 * (44 // 16))


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def train_in_group(settings, path, rank, port):
    """Train as one of two processes, with the variables that a launcher sets."""
    group = {
        "WORLD_SIZE": 2,
        "RANK": rank,
        "LOCAL_RANK": rank,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "OMP_NUM_THREADS": 1,  # the threads of the parent do not exist in a forked process
    }
    os.environ.update({name: str(value) for name, value in group.items()})
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    AcceleratorState._reset_state(reset_partial_state=True)
    train(settings, path)
    assert AcceleratorState().num_processes == 2


@pytest.mark.usefixtures("no_report")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # Python 3.12 warns of forks
def test_two_processes_learn_what_one_does(landmark_settings, tmp_path):
    """Gradients and batch statistics are shared: the weights agree to rounding."""
    changes = [*SMALL, "train.epochs=1", "train.batch_size=8", "augment.occlusion=0"]
    settings, context, port = landmark_settings(*changes).settings, get_context("fork"), free_port()
    processes = [
        context.Process(target=train_in_group, args=(settings, tmp_path / "two", rank, port), daemon=True)
        for rank in (0, 1)
    ]
    for process in processes:
        process.start()
    train(settings, tmp_path / "one")
    for process in processes:
        process.join(timeout=100)
    assert [process.exitcode for process in processes] == [0, 0]
    one, two = (load_checkpoint(RunDirectory(tmp_path / n).checkpoint()).model for n in ("one", "two"))
    for name, tensor in one.items():
        assert torch.allclose(two[name], tensor, atol=2e-4, rtol=2e-3), name
