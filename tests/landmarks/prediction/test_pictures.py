import dataclasses
import threading

import cv2
import numpy as np
import pytest
import torch

from mmtoolkit.core.errors import DataError, UsageError
from mmtoolkit.landmarks.data.face import official_box
from mmtoolkit.landmarks.data.read import read_annotations
from mmtoolkit.landmarks.detection.detect import whole_picture
from mmtoolkit.landmarks.evaluation.metrics import score_faces
from mmtoolkit.landmarks.models.networks import Output
from mmtoolkit.landmarks.prediction.pictures import find_faces, list_pictures, predict_pictures, read_ahead


def no_face(_):
    return np.empty((0, 5), np.float32)


def test_no_face_gives_an_empty_list(landmarker, faces):
    images = [faces[0].image, faces[1].image]
    boxes = [np.append(faces[0].box, 1)[None], no_face(None)]
    one, none = find_faces(landmarker, images, boxes)
    assert len(one) == 1
    assert none == []
    points, scores = landmarker(faces[0].image, np.empty((0, 4), np.float32))
    assert points.shape == (0, 106, 2)
    assert scores.shape == (0, 106)


def test_a_batch_finds_what_each_picture_alone_does(landmarker, faces):
    boxes = [np.append(face.box, 1)[None] for face in faces]
    together = find_faces(landmarker, [face.image for face in faces], boxes)
    for face, box, (found,) in zip(faces, boxes, together, strict=True):
        ((alone,),) = find_faces(landmarker, [face.image], [box])
        np.testing.assert_allclose(found.points, alone.points, atol=0.02)
        direct, _ = landmarker(face.image, face.box[None])
        np.testing.assert_allclose(found.points, direct[0], atol=0.02)


class Fixed(torch.nn.Module):
    """Finds the points at the same place of every crop."""

    def __init__(self, points):
        super().__init__()
        self.points = torch.from_numpy(points)

    def forward(self, images):
        points = self.points.expand(len(images), -1, -1)
        return Output(points, torch.ones(len(images), 106), None)


def test_the_second_pass_looks_through_the_first_points_box(landmarker, shape):
    fixed = dataclasses.replace(landmarker, network=Fixed(shape / 200))
    box = np.array([10, 20, 60, 90], np.float32)
    image = np.zeros((120, 120, 3), np.uint8)
    first, second = (fixed(image, box[None], passes)[0][0] for passes in (1, 2))
    np.testing.assert_allclose(first[:, 0], 0 + shape[:, 0] / 200 * 70 - 0.5, rtol=1e-4)
    left, top, right, bottom = official_box(first)
    side = max(right - left, bottom - top)
    corner = np.array([(left + right - side) / 2, (top + bottom - side) / 2])
    np.testing.assert_allclose(second, shape / 200 * side + corner - 0.5, rtol=1e-4, atol=1e-3)
    ((found,),) = find_faces(fixed, [image], [np.append(box, 1)[None]])
    np.testing.assert_allclose(found.points, second, rtol=1e-5)


def test_a_folder_is_read_in_order_with_its_boxes(landmarker, jd_folder, faces):
    pictures = list_pictures(jd_folder)
    assert [p.path.name for p in pictures] == sorted(face.name for face in faces)
    assert all(p.box is not None for p in pictures)
    found = list(predict_pictures(landmarker, pictures, None, passes=1, batch_size=5))
    assert [p.name for p in found] == [p.name for p in pictures]
    truths = read_annotations(jd_folder)
    named = {p.name.split("/")[-1]: p.faces[0].points for p in found}
    assert score_faces(truths, named).metrics["nme"] < 0.045  # half a pixel of the 32 pixel crop is 2.4 %


def test_a_picture_without_box_needs_a_detector(landmarker, faces, tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), faces[0].image[:, :, ::-1])
    pictures = list_pictures(tmp_path / "a.png")
    with pytest.raises(UsageError, match="choose a `detector`"):
        list(predict_pictures(landmarker, pictures, None))
    (found,) = predict_pictures(landmarker, pictures, whole_picture)
    assert len(found.faces) == 1
    (found,) = predict_pictures(landmarker, pictures, no_face)
    assert found.faces == []
    with pytest.raises(DataError, match="no such picture"):
        list_pictures(tmp_path / "b.png")


def test_reading_ahead_keeps_order_and_stays_bounded():
    lock, state = threading.Lock(), {"begun": 0, "taken": 0, "most": 0}

    def work(item):
        with lock:
            state["begun"] += 1
            state["most"] = max(state["most"], state["begun"] - state["taken"])
        return item * item

    for number, result in enumerate(read_ahead(work, range(500), workers=3, ahead=8)):
        assert result == number * number
        with lock:
            state["taken"] += 1
    assert state["begun"] == 500
    assert state["most"] <= 10


def test_hidden_files_are_no_pictures(faces, tmp_path):
    for name in ("a.png", "._a.png", ".hidden/b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / name), faces[0].image)
    assert [p.name for p in list_pictures(tmp_path)] == ["a.png"]
