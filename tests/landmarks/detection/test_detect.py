import numpy as np
import pytest

from mmtoolkit.core.errors import UsageError
from mmtoolkit.landmarks.detection.detect import boxes_of_faces, make_detector


def test_missing_weights_of_a_detector_are_reported(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(UsageError, match=r"yunet.*`download`"):
        make_detector("yunet")


def test_tight_boxes_are_widened():
    wide = boxes_of_faces(np.array([[100, 100, 200, 210, 0.9]], np.float32))[0]
    assert wide[2] - wide[0] == pytest.approx(121)
    assert wide[3] - wide[1] == pytest.approx(149)
    assert (wide[1] + wide[3]) / 2 == pytest.approx(160 - 10.7)
