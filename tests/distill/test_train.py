import json
import multiprocessing
import os
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from mmtoolkit.commands.app import app
from safetensors.torch import load_file

from mmtoolkit.core.config import config_layer, idle_settings, resolve, set_layers, setting_names
from mmtoolkit.core.errors import CheckpointError, ConfigError, DivergenceError, UsageError
from mmtoolkit.core.run import RunDirectory
from mmtoolkit.distill.config import READ_BY, DistillSettings
from mmtoolkit.distill.data.synthetic import make_shapes
from mmtoolkit.distill.models.pixel import PixelSpec, load_pixel, load_pixel_student, read_pixel
from mmtoolkit.distill.teach import teach
from mmtoolkit.distill.train import train
from mmtoolkit.distill.training.steps import batch_rows, learning_step

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def npz(tmp_path_factory):
    images, captions = make_shapes(24, seed=1)
    path = tmp_path_factory.mktemp("data") / "small.npz"
    np.savez(path, images=images, captions=np.array(captions))
    return path


@pytest.fixture(scope="module")
def make(npz, tmp_path_factory):
    """Run `teach` or `train` with the tiny preset and some changes; returns the folder of the run."""

    def run(kind, *changes, path=None, resume=False):
        path = path or tmp_path_factory.mktemp("runs") / "run"
        layers = [config_layer("distill", "tiny"), *set_layers([f"data.path={npz}", *changes])]
        resolved = resolve(DistillSettings, layers)
        directory = RunDirectory.open(path) if resume else RunDirectory.new(path, resolved.to_yaml())
        kind(resolved.settings, directory, resume=resume)
        return path

    return run


@pytest.fixture(scope="module")
def teacher(make):
    return make(teach)


@pytest.fixture(scope="module")
def lora_run(teacher, make):
    """The student of the tiny preset; tests only read it."""
    return make(train, f"model.base={teacher}")


def weights(run, name="model.safetensors"):
    return load_file(run / "checkpoints" / "last" / name)


def state(run):
    return torch.load(run / "checkpoints" / "last" / "state.pt", weights_only=True)


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_teacher_is_written_and_read(teacher):
    denoiser = load_pixel(str(teacher), CPU)
    file = read_pixel(str(teacher / "teacher.safetensors"), "teacher")
    stored = weights(teacher)
    for name, value in denoiser.model.state_dict().items():
        assert torch.equal(value, stored[name])
        torch.testing.assert_close(file.weights[name], value, atol=1e-3, rtol=1e-3)
    assert denoiser.spec.kind == "caption"
    assert json.loads((teacher / "results.json").read_text())["steps"] == 4


def test_a_resumed_teacher_has_the_same_bits(make):
    half = make(teach, "teach.steps=2", "teach.cooldown=0")
    whole = make(teach, "teach.cooldown=0")
    make(teach, "teach.cooldown=0", path=half, resume=True)
    assert same(weights(whole), weights(half))
    assert same(state(whole)["weights"], state(half)["weights"])


@pytest.mark.parametrize("kind", [teach, train])
def test_other_data_are_refused_when_a_run_is_resumed(kind, teacher, lora_run, make, npz, tmp_path):
    """The same words in another order, which no other check would notice."""
    run = teacher if kind is teach else lora_run
    with np.load(npz) as file:
        np.savez(tmp_path / "other.npz", images=file["images"], captions=file["captions"][::-1])
    before = sorted(run.rglob("*"))
    with pytest.raises(CheckpointError, match="trained on other pictures or texts"):
        make(kind, f"model.base={teacher}", f"data.path={tmp_path / 'other.npz'}", path=run, resume=True)
    assert sorted(run.rglob("*")) == before


@pytest.mark.parametrize("change", ["model.adapter=lora", "model.adapter=full", "targets.rule=lcm"])
def test_a_resumed_student_has_the_same_bits(change, teacher, lora_run, make):
    base = f"model.base={teacher}"
    whole = lora_run if change == "model.adapter=lora" else make(train, base, change)
    half = make(train, base, change, "train.steps=2")
    make(train, base, change, path=half, resume=True)
    assert same(weights(whole), weights(half))
    assert same(state(whole)["weights"], state(half)["weights"])
    lines = [json.loads(line)["step"] for line in (half / "metrics.jsonl").read_text().splitlines()]
    assert lines == [2, 4]


def test_accumulated_parts_are_the_whole_batch(lora_run, teacher, make):
    parts = make(train, f"model.base={teacher}", "train.accumulation=4")
    for name, value in weights(lora_run).items():
        torch.testing.assert_close(weights(parts)[name], value, atol=2e-5, rtol=1e-3)


def train_as_rank(rank, port, arguments):
    """Run the command as one process of two, as torchrun would start it."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    AcceleratorState._reset_state(reset_partial_state=True)  # the parent has trained in one process
    app(["distill", "train", *arguments], standalone_mode=False)
    torch.distributed.destroy_process_group()


def test_two_processes_compute_what_one_does(lora_run, teacher, npz, tmp_path):
    """Forks, as a new interpreter takes seconds to import everything."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = ["-c", "tiny", "--data", npz, "--base", teacher, "--device", "cpu", "-o", tmp_path / "two"]
    fork = multiprocessing.get_context("fork")
    words = [str(word) for word in arguments]
    processes = [fork.Process(target=train_as_rank, args=(rank, port, words)) for rank in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    for name, value in weights(lora_run).items():
        torch.testing.assert_close(weights(tmp_path / "two")[name], value, atol=2e-5, rtol=1e-3)


def test_the_student_is_what_was_saved(teacher, make):
    run = make(train, f"model.base={teacher}", "targets.guidance=2", "train.sample_every=4")
    denoiser, targets = load_pixel_student(str(run), None, CPU)
    assert targets.guidance == 2
    stored = weights(run)
    assert same({k: v.data for k, v in denoiser.trainable().items()}, stored)
    x, t = torch.randn(2, 3, 32, 32), torch.tensor([999, 500])
    condition = {"tokens": denoiser.spec.tokens(["a large red circle on the left on white"] * 2)}
    with torch.no_grad():
        student = denoiser.predict(x, t, condition)
        with denoiser.teacher():
            frozen = denoiser.predict(x, t, condition)
        base = load_pixel(str(teacher), CPU).predict(x, t, condition)
    assert torch.equal(frozen, base)
    assert not torch.equal(student, frozen)
    results = json.loads((run / "results.json").read_text())
    assert set(results["gaps"]) == {"gap@2", "gap@4", "gap@8"}
    assert (run / "samples" / "000004.png").is_file()
    assert (run / "report.html").is_file()


def test_all_weights_can_train(teacher, make):
    run = make(train, f"model.base={teacher}", "model.adapter=full", "train.ema=0")
    denoiser, _ = load_pixel_student(str(run), None, CPU)
    assert same(weights(run), state(run)["weights"])
    assert not any(name.startswith("text.") for name in denoiser.trainable())


def test_learning_lowers_the_loss(make):
    changes = ["teach.batch_size=16", "teach.learning_rate=0.01", "network.prediction=sample"]
    run = make(teach, "teach.steps=40", *changes)
    lines = [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1] < 0.7 * lines[0]


def test_a_loss_that_is_no_number_stops_the_run(teacher, make, tmp_path):
    with pytest.raises(DivergenceError, match=r"lower train\.learning_rate"):
        make(
            train, f"model.base={teacher}", "train.learning_rate=1e30", "train.steps=20", path=tmp_path / "x"
        )
    with pytest.raises(DivergenceError, match=r"lower teach\.learning_rate"):
        make(teach, "teach.learning_rate=1e30", "teach.steps=20", path=tmp_path / "y")


def test_a_step_whose_scaled_gradients_overflow_is_left_out():
    parameter = torch.nn.Parameter(torch.ones(1))
    optimizer, scaler = torch.optim.SGD([parameter], 1.0), torch.amp.GradScaler("cpu")
    scaler.scale(parameter.sum() * 0).backward()
    parameter.grad = torch.full((1,), torch.inf)
    learning_step(optimizer, scaler, [parameter], 1.0)
    assert parameter.item() == 1


def test_targets_of_averaged_weights(teacher, make):
    changes = [f"model.base={teacher}", "train.learning_rate=0.01", "train.ema=0.5"]
    own, averaged = (make(train, *changes, f"targets.averaged={value}") for value in ("false", "true"))
    assert not same(weights(own), weights(averaged))
    with pytest.raises(ConfigError, match=r"targets\.averaged needs an average; set train\.ema above 0"):
        make(train, "targets.averaged=true", "train.ema=0")


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (["model.base=nowhere"], CheckpointError, "nowhere: no such teacher"),
        (["data.path=nowhere"], Exception, "no such file or folder"),
        (["train.optimizer=adamw8bit"], UsageError, "adamw8bit needs bitsandbytes: pip install"),
        (["train.batch_size=6", "train.accumulation=4"], ConfigError, "multiple of train.accumulation"),
    ],
)
def test_what_cannot_start_writes_nothing(changes, error, message, teacher, make, tmp_path):
    with pytest.raises(error, match=message):
        make(train, f"model.base={teacher}", *changes, path=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_other_words_are_refused(teacher):
    spec = load_pixel(str(teacher), CPU).spec
    with pytest.raises(UsageError, match="never read 'hexagon'"):
        spec.tokens(["a red hexagon"])
    with pytest.raises(UsageError, match="did you mean 'circle'"):
        spec.tokens(["a red cirle"])
    with pytest.raises(UsageError, match="reads at most"):
        spec.tokens(["red " * 40])
    assert PixelSpec.from_json(spec.to_json()) == spec


def test_a_teacher_is_no_student(teacher):
    with pytest.raises(CheckpointError, match="not a pixel student"):
        load_pixel_student(str(teacher), None, CPU)
    with pytest.raises(CheckpointError, match="not a pixel student"):
        read_pixel(str(teacher / "teacher.safetensors"), "student")


def test_every_example_comes_once_a_pass():
    rows = torch.cat([batch_rows(10, 4, 3, step) for step in range(5)])
    assert sorted(rows[:10].tolist()) == sorted(rows[10:].tolist()) == list(range(10))
    assert rows[:10].tolist() != rows[10:].tolist()
    assert torch.equal(batch_rows(3, 8, 0, 1), batch_rows(3, 8, 0, 1))
    assert len(batch_rows(3, 8, 0, 1)) == 8


@pytest.mark.parametrize(("kind", "command"), [(teach, "teach"), (train, "train")])
def test_settings_that_are_called_idle_are_never_read(kind, command, teacher, make, record_reads):
    read = record_reads(DistillSettings)
    changes = [f"model.base={teacher}", "targets.rule=lcm", "model.adapter=full"]
    run = make(kind, *changes, "train.sample_every=4")
    settings = resolve(DistillSettings, [config_layer("distill", str(run / "config.yaml"))]).settings
    idle = idle_settings(settings, setting_names(DistillSettings), READ_BY, command)
    if command == "train":  # the stored teacher describes its own network
        idle = {name: reason for name, reason in idle.items() if not name.startswith("network.")}
    assert read & idle.keys() == set()
    assert {"train": "train.steps", "teach": "teach.steps"}[command] in read


def test_evaluate_and_sample_build_no_training(teacher, make, monkeypatch):
    """Neither an optimizer nor an Accelerator nor the state of a training."""
    from mmtoolkit.distill import evaluate, load, sample
    from mmtoolkit.distill.training import state

    run = make(train, f"model.base={teacher}")
    refuse = pytest.fail
    monkeypatch.setattr(torch.optim, "AdamW", lambda *_, **__: refuse("an optimizer was built"))
    monkeypatch.setattr(state, "set_up", lambda *_, **__: refuse("a training was set up"))
    monkeypatch.setattr("accelerate.Accelerator", lambda *_, **__: refuse("an Accelerator was built"))
    monkeypatch.setattr("mmtoolkit.distill.evaluation.judge.load_features", lambda *_: plain_features)
    changes = [f"evaluate.{one}" for one in ("samples=8", "steps=[1]", "eta=[0]", "guidance=[1]")]
    assert len(evaluate(run, set_layers(changes)).cells) == 1
    student = load(run)
    from_folder, from_student = (
        sample(one, ["a large red circle on the left on white"]) for one in (run, student)
    )
    pixels = [np.asarray(found.images[0]) for found in (from_folder, from_student)]
    assert np.array_equal(*pixels)


def plain_features(pictures):
    return torch.nn.functional.adaptive_avg_pool2d(pictures, 2).flatten(1)


def test_importing_the_engine_loads_nothing_heavy():
    code = "import sys; from mmtoolkit import distill; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_all_public_names_can_be_imported():
    from mmtoolkit import distill

    assert all(callable(getattr(distill, name)) for name in distill.__all__)
