import sys

import numpy as np
import pytest

from mmtoolkit.core.errors import CheckpointError, RunError, UsageError
from mmtoolkit.landmarks.export import SUFFIXES, comparison_crops, cut_crops, export, export_network
from mmtoolkit.landmarks.load import load, untrained
from mmtoolkit.landmarks.profile import profile


@pytest.mark.parametrize("kind", ["torchscript", "safetensors", "onnx"])
def test_exports_agree_with_torch(landmarker, jd_folder, tmp_path, kind):
    if kind == "onnx":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnx")
    crops = comparison_crops(landmarker, jd_folder)
    path = tmp_path / f"net{SUFFIXES[kind]}"
    done = export(landmarker, path, kind, jd_folder)
    assert done.difference < (0.1 if kind == "safetensors" else 1e-3)
    assert path.stat().st_size == done.size
    with pytest.raises(UsageError, match="new file"):
        export_network(landmarker, path, kind, crops)


def test_half_precision_weights_are_a_checkpoint(landmarker, faces, tmp_path):
    path = tmp_path / "net.safetensors"
    export_network(landmarker, path, "safetensors", cut_crops(faces, landmarker))
    loaded = load(path, "cpu")
    assert loaded.settings == landmarker.settings
    box = faces[0].box[None]
    np.testing.assert_allclose(loaded(faces[0].image, box)[0], landmarker(faces[0].image, box)[0], atol=0.5)


def test_a_difference_removes_the_file(landmarker, faces, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules["mmtoolkit.landmarks.export"], "TOLERANCE", -1.0)
    path = tmp_path / "net.pt"
    with pytest.raises(RunError, match="differ from torch"):
        export_network(landmarker, path, "torchscript", cut_crops(faces, landmarker))
    assert not path.exists()


def test_other_files_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="no such run"):
        load(tmp_path / "nowhere")
    (tmp_path / "a.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        load(tmp_path / "a.safetensors")


def test_flip_is_symmetric(landmarker, faces):
    """With --flip, the mirrored crop gives the mirrored points."""
    from dataclasses import replace

    from mmtoolkit.landmarks.data.points import FLIP

    flipping = replace(landmarker, flip=True)
    crops = cut_crops(faces[:3], landmarker)
    points, _ = flipping.locate(crops)
    mirrored, _ = flipping.locate(np.ascontiguousarray(crops[:, :, ::-1]))
    np.testing.assert_allclose(mirrored[:, FLIP] * [-1, 1] + [1, 0], points, atol=1e-4)


def test_profile_measures_costs_and_limits():
    found = profile(untrained("compact"), repeats=3)
    assert found.bytes <= 2e6
    assert 2 * found.multiplications <= 100e6
    assert all(found.limits.values())
    assert found.milliseconds > 0
    assert not any(profile(untrained("fan"), repeats=1).limits.values())
