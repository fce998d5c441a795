from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest

from mmtoolkit.core.config import config_layer, resolve, set_layers
from mmtoolkit.core.run import RunDirectory
from mmtoolkit.landmarks.config import LandmarkSettings
from mmtoolkit.landmarks.data.face import official_box
from mmtoolkit.landmarks.data.synthetic import render_faces
from mmtoolkit.landmarks.data.write import write_jd


@pytest.fixture(scope="session")
def faces():
    """A dozen rendered faces of 96 pixels, with average boxes."""
    return [replace(face, box=official_box(face.points)) for face in render_faces(12, 96, seed=5)]


@pytest.fixture(scope="session")
def jd_folder(faces, tmp_path_factory):
    """The same as a JD data set."""
    folder = tmp_path_factory.mktemp("jd") / "set"
    write_jd(folder, faces)
    return folder


@pytest.fixture(scope="session")
def landmark_settings():
    def make(*changes):
        layers = [config_layer("landmarks", "tiny"), *set_layers(["device=cpu", *changes])]
        return resolve(LandmarkSettings, layers)

    return make


@pytest.fixture(scope="session")
def without_report():
    """Leave out the report of runs inside a `with`: it takes longer than a tiny training."""

    @contextmanager
    def leave_out():
        with pytest.MonkeyPatch.context() as patch:
            module = import_module("mmtoolkit.landmarks.train")
            patch.setattr(module, "write_run_report", lambda *_: None)
            yield

    return leave_out


@pytest.fixture
def no_report(without_report):
    with without_report():
        yield


@pytest.fixture(scope="session")
def trained(jd_folder, tmp_path_factory):
    """A run whose network has learnt a dozen faces by heart, and its result."""
    from mmtoolkit.landmarks.train import train

    changes = [
        "device=cpu",
        f"data.path={jd_folder}",
        f"data.validation={jd_folder}",
        "data.rendered=0",
        "train.epochs=4",
        "train.batch_size=12",
        "train.warmup=10",
        "train.faces_per_epoch=576",
        "train.learning_rate=0.01",
        "train.ema=0.9",
        "train.checkpoint_every=4",
        *(
            f"augment.{name}=0"
            for name in ("rotation", "stretch", "flip", "occlusion", "box_jitter", "colour", "grey")
        ),
        *(f"augment.{name}=0" for name in ("blur", "low_resolution", "noise")),
    ]
    resolved = resolve(LandmarkSettings, [config_layer("landmarks", "tiny"), *set_layers(changes)])
    run = RunDirectory.new(tmp_path_factory.mktemp("run") / "overfit", resolved.to_yaml())
    return run.path, train(resolved.settings, run)


@pytest.fixture(scope="session")
def landmarker(trained):
    """That network, loaded for use."""
    from mmtoolkit.landmarks.load import load

    return load(trained[0], "cpu")


@pytest.fixture
def shape():
    """A plausible face: 106 points, about 100 pixels wide."""
    rng = np.random.default_rng(0)
    return (rng.uniform(0, 100, (106, 2)) + 50).astype(np.float32)
