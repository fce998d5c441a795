import subprocess
import sys

import numpy as np
import pytest

from mmtoolkit import landmarks
from mmtoolkit.core.config import config_layer, resolve
from mmtoolkit.landmarks.data.read import read_annotations


def test_importing_the_engine_loads_nothing_heavy():
    code = (
        "import sys; from mmtoolkit import landmarks; landmarks.LandmarkSettings()\n"
        "print([m for m in ('torch', 'numpy', 'cv2', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_every_exported_name_is_found():
    for name in landmarks.__all__:
        assert getattr(landmarks, name).__name__ == name
    assert callable(landmarks.train)  # the function, although a module has the same name


@pytest.mark.usefixtures("no_report")
def test_a_python_user_needs_no_run_directory(jd_folder, tmp_path):
    """Train into a path, then score, compare, predict and submit with that path."""
    settings = resolve(landmarks.LandmarkSettings, [config_layer("landmarks", "tiny")]).settings
    small = settings.data.model_copy(update={"rendered": 16, "rendered_validation": 2})
    settings = settings.model_copy(update={"data": small, "device": "cpu"})
    run = tmp_path / "run"
    assert landmarks.train(settings, run).epochs == 2
    assert (run / "config.yaml").is_file()

    scores = landmarks.evaluate(run, jd_folder)
    assert scores.metrics["faces"] == 12
    differences = landmarks.compare(run, None, jd_folder)
    assert differences[0].first == scores.metrics["nme"]
    predictions = list(landmarks.predict(jd_folder, run, passes=1))
    truths = read_annotations(jd_folder)
    assert len(predictions) == len(truths)
    assert np.shape(predictions[0].faces[0].points) == (106, 2)
    assert landmarks.submit(jd_folder, tmp_path / "s.zip", run, "whole") == 12
