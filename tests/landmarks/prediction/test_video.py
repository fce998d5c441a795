import dataclasses

import cv2
import numpy as np
import pytest

from mmtoolkit.core.errors import DataError, UsageError
from mmtoolkit.landmarks.prediction.outputs import OutputFolder
from mmtoolkit.landmarks.prediction.video import join_boxes, predict_video, read_video


def test_a_video_is_followed_and_drawn(landmarker, faces, tmp_path):
    face, path = faces[0], tmp_path / "in.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25, face.image.shape[1::-1])
    for _ in range(12):
        writer.write(face.image[:, :, ::-1])
    writer.release()
    calls = []

    def detector(_):
        calls.append(1)
        return np.append(face.box, 1).astype(np.float32)[None]

    found = list(predict_video(landmarker, read_video(path), detector))
    with OutputFolder(tmp_path / "out", ["video"]) as folder:
        for prediction in found:
            folder.write(prediction)
    assert len(found) == 12
    assert {f.track for p in found for f in p.faces} == {0}
    assert len(calls) <= 3
    frames = list(read_video(tmp_path / "out" / "overlay.mp4"))
    assert [rate for rate, _ in frames] == [25] * 12
    assert frames[0][1].shape == face.image.shape
    with (
        OutputFolder(tmp_path / "none", ["video"]) as folder,
        pytest.raises(UsageError, match="not with"),
    ):
        folder.write(dataclasses.replace(found[0], name="a.jpg", rate=0.0))
    assert len(list(read_video(path, limit=5))) == 5
    with pytest.raises(DataError, match="cannot be opened"):
        list(read_video(tmp_path / "nowhere.mp4"))


def test_a_missed_detection_neither_drops_nor_renumbers_a_face(landmarker, faces):
    face, calls = faces[0], []

    def detector(_):
        calls.append(1)
        found = np.append(face.box, 1).astype(np.float32)[None]
        return found if len(calls) != 2 else found[:0]

    frames = [(25.0, face.image)] * 6
    found = list(predict_video(landmarker, frames, detector, detect_every=3))
    assert len(calls) == 2
    assert [[f.track for f in p.faces] for p in found] == [[0]] * 6


def test_known_boxes_join_where_no_detection_overlaps():
    known = np.float32([[0, 0, 10, 10, 0.5], [50, 50, 60, 60, 0.5]])
    found = np.float32([[1, 1, 11, 11, 0.9]])
    np.testing.assert_array_equal(join_boxes(found, known), np.stack([found[0], known[1]]))
    np.testing.assert_array_equal(join_boxes(found, known[:0]), found)
    np.testing.assert_array_equal(join_boxes(found[:0], known), known)
