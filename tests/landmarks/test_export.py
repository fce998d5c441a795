import numpy as np
import pytest

from mmtoolkit.core.errors import CheckpointError, RunError, UsageError
from mmtoolkit.landmarks import export as engine
from mmtoolkit.landmarks.load import load_landmarker, untrained


@pytest.fixture(scope="module")
def landmarker(trained):
    return load_landmarker(trained[0], "cpu")


@pytest.mark.parametrize("kind", ["torchscript", "safetensors", "onnx"])
def test_exports_agree_with_torch(landmarker, jd_folder, tmp_path, kind):
    if kind == "onnx":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnx")
    crops = engine.comparison_crops(landmarker, jd_folder)
    path = tmp_path / f"net{engine.SUFFIXES[kind]}"
    done = engine.export(landmarker, path, kind, crops)
    assert done.difference < (0.1 if kind == "safetensors" else 1e-3)
    assert path.stat().st_size == done.size
    with pytest.raises(UsageError, match="new file"):
        engine.export(landmarker, path, kind, crops)


def test_half_precision_weights_are_a_checkpoint(landmarker, faces, tmp_path):
    path = tmp_path / "net.safetensors"
    engine.export(landmarker, path, "safetensors", engine.cut_crops(faces, landmarker))
    again = load_landmarker(path, "cpu")
    assert again.settings == landmarker.settings
    box = faces[0].box[None]
    np.testing.assert_allclose(again(faces[0].image, box)[0], landmarker(faces[0].image, box)[0], atol=0.5)


def test_a_difference_removes_the_file(landmarker, faces, tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "TOLERANCE", -1.0)
    path = tmp_path / "net.pt"
    with pytest.raises(RunError, match="differ from torch"):
        engine.export(landmarker, path, "torchscript", engine.cut_crops(faces, landmarker))
    assert not path.exists()


def test_what_is_no_network_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="no such run"):
        load_landmarker(tmp_path / "nowhere")
    (tmp_path / "a.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="not weights of"):
        load_landmarker(tmp_path / "a.safetensors")


def test_flip_is_symmetric(landmarker, faces):
    """With --flip, the mirrored crop gives the mirrored points."""
    from dataclasses import replace

    from mmtoolkit.landmarks.data.points import FLIP

    flipping = replace(landmarker, flip=True)
    crops = engine.cut_crops(faces[:3], landmarker)
    points, _ = flipping.locate(crops)
    mirrored, _ = flipping.locate(np.ascontiguousarray(crops[:, :, ::-1]))
    np.testing.assert_allclose(mirrored[:, FLIP] * [-1, 1] + [1, 0], points, atol=1e-4)


def test_profile_tells_costs_and_limits():
    found = engine.profile(untrained("compact"), repeats=3)
    assert found.bytes <= 2e6
    assert 2 * found.multiplications <= 100e6
    assert all(found.limits.values())
    assert found.milliseconds > 0
    assert not any(engine.profile(untrained("fan"), repeats=1).limits.values())
