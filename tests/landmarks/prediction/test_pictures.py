import csv
import dataclasses
import json
import threading
import zipfile

import cv2
import numpy as np
import pytest
import torch

from mmtoolkit.core.errors import DataError, UsageError
from mmtoolkit.landmarks.data.face import official_box
from mmtoolkit.landmarks.data.points import Points
from mmtoolkit.landmarks.data.read import read_annotations
from mmtoolkit.landmarks.data.text import read_points_txt, write_points_txt
from mmtoolkit.landmarks.detection.detect import boxes_of_faces, make_detector, whole_picture
from mmtoolkit.landmarks.evaluation.metrics import evaluate
from mmtoolkit.landmarks.load import load_landmarker
from mmtoolkit.landmarks.models.networks import Output
from mmtoolkit.landmarks.prediction.outputs import (
    OutputFolder,
    align_face,
    check_submission,
    write_submission,
)
from mmtoolkit.landmarks.prediction.pictures import (
    Prediction,
    find_faces,
    join_boxes,
    list_pictures,
    predict_pictures,
    predict_video,
    read_ahead,
    read_video,
)
from mmtoolkit.landmarks.prediction.smooth import OneEuroFilter, Tracker
from mmtoolkit.landmarks.tasks import parse_box


@pytest.fixture(scope="module")
def landmarker(trained):
    return load_landmarker(trained[0], "cpu")


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
    assert evaluate(truths, named).metrics["nme"] < 0.045  # half a pixel of the 32 pixel crop is 2.4 %


def test_a_picture_without_box_needs_a_detector(landmarker, faces, tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), faces[0].image[:, :, ::-1])
    pictures = list_pictures(tmp_path / "a.png")
    with pytest.raises(UsageError, match="choose a --detector"):
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


def test_outputs_hold_what_was_found(landmarker, jd_folder, tmp_path):
    kinds = ["json", "csv", "txt", "pts", "overlay", "crops"]
    predictions = list(predict_pictures(landmarker, list_pictures(jd_folder)[:2], None))
    with OutputFolder(tmp_path / "out", kinds) as folder:
        for prediction in predictions:
            folder.write(prediction)
    first = predictions[0]
    np.testing.assert_allclose(
        read_points_txt(tmp_path / "out/txt" / f"{first.name}.txt"), first.faces[0].points, atol=1e-3
    )
    lines = [json.loads(line) for line in (tmp_path / "out/predictions.jsonl").read_text().splitlines()]
    assert [line["name"] for line in lines] == [p.name for p in predictions]
    assert np.shape(lines[0]["faces"][0]["points"]) == (106, 2)
    with (tmp_path / "out/points.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 2 * 106
    assert rows[16]["label"] == "contour_chin"
    overlay = cv2.imread(str(tmp_path / "out/overlays" / first.name))
    assert overlay.shape == first.image.shape
    assert (overlay[:, :, ::-1].astype(int) - first.image != 0).any()
    assert all(file.is_file() for file in folder.files)
    with pytest.raises(UsageError, match="not empty"):
        OutputFolder(tmp_path / "out", kinds)


def test_aligned_crops_have_level_eyes(faces):
    face = faces[0]
    image = np.zeros((300, 300, 3), np.uint8)
    turn = np.array([[0.8, -0.6], [0.6, 0.8]], np.float32)
    points = ((face.points - 48) @ turn.T * 1.2 + 150).astype(np.float32)
    eyes = [points[66:74].mean(0), points[75:83].mean(0)]
    for (x, y), colour in zip(eyes, [(255, 0, 0), (0, 0, 255)], strict=True):
        cv2.circle(image, (round(float(x)), round(float(y))), 3, colour, -1)
    crop = align_face(image, points).astype(float)
    rows = [(crop[:, :, c].sum(1) * np.arange(256)).sum() / crop[:, :, c].sum() for c in (0, 2)]
    assert rows[0] == pytest.approx(rows[1], abs=1.5)


def test_submissions_are_checked(tmp_path, shape: Points):
    path = tmp_path / "s.zip"
    with pytest.raises(DataError, match=r"1 of 2 pictures have no face, the first is b\.jpg"):
        write_submission({"a.jpg": shape}, ["a.jpg", "b.jpg"], path)
    assert not path.exists()
    write_submission({"a.jpg": shape, "b.jpg": shape}, ["a.jpg", "b.jpg"], path)
    check_submission(path, ["a.jpg", "b.jpg"])
    with pytest.raises(DataError, match=r"lacks c\.jpg\.txt"):
        check_submission(path, ["a.jpg", "b.jpg", "c.jpg"])
    with pytest.raises(DataError, match=r"too much: b\.jpg\.txt"):
        check_submission(path, ["a.jpg"])
    with pytest.raises(UsageError, match="new file"):
        write_submission({"a.jpg": shape}, ["a.jpg"], path)
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("a.jpg.txt", write_points_txt(shape))
    with pytest.raises(DataError, match=r"holds a\.jpg\.txt twice"):
        check_submission(path, ["a.jpg", "b.jpg"])


def jitter(frames):
    return np.linalg.norm(np.diff(frames, axis=0), axis=-1).mean()


def test_smoothing_steadies_a_still_face(shape):
    rng = np.random.default_rng(0)
    noisy = shape + rng.normal(0, 0.5, (200, 106, 2)).astype(np.float32)
    smooth = OneEuroFilter(rate=30)
    filtered = np.stack([smooth(frame) for frame in noisy])
    assert jitter(filtered[20:]) < jitter(noisy[20:]) / 3


@pytest.mark.parametrize("speed", [1.0, 2.0, 4.0])
def test_smoothing_follows_a_moving_face(shape, speed):
    """Delay under two frames at `speed` pixels a frame for a face of 100 pixels, noise included."""
    rng = np.random.default_rng(0)
    moving = shape + speed * np.arange(90, dtype=np.float32)[:, None, None] * [1, 0]
    noisy = (moving + rng.normal(0, 0.3, moving.shape)).astype(np.float32)
    smooth = OneEuroFilter(rate=30)
    filtered = np.stack([smooth(frame) for frame in noisy])
    delay = (moving - filtered)[45:, :, 0].mean() / speed
    assert delay < 2


def test_faces_keep_their_numbers(shape):
    tracker = Tracker(smooth=False)
    other = shape + 400
    assert tracker.update(np.stack([shape, other]))[0] == [0, 1]
    assert tracker.update(np.stack([other + 3, shape + 3]))[0] == [1, 0]
    assert tracker.update(np.stack([shape + 5]))[0] == [0]
    assert tracker.update(np.stack([shape + 5, other]))[0] == [0, 2]
    assert tracker.update(np.empty((0, 106, 2), np.float32))[0] == []


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


def test_files_of_a_video_are_named_by_track(landmarker, faces, tmp_path):
    ((face,),) = find_faces(landmarker, [faces[0].image], [np.append(faces[0].box, 1)[None]])
    tracked = [dataclasses.replace(face, track=track) for track in (2, 0)]
    with OutputFolder(tmp_path / "out", ["txt"]) as folder:
        folder.write(Prediction("000007", faces[0].image, tracked, 25.0))
    assert sorted(f.name for f in (tmp_path / "out/txt").iterdir()) == ["000007.2.txt", "000007.txt"]


def test_hidden_files_are_no_pictures(faces, tmp_path):
    for name in ("a.png", "._a.png", ".hidden/b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / name), faces[0].image)
    assert [p.name for p in list_pictures(tmp_path)] == ["a.png"]


def test_detectors_without_weights_say_so(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(UsageError, match=r"yunet.*--download"):
        make_detector("yunet")


def test_tight_boxes_are_widened():
    wide = boxes_of_faces(np.array([[100, 100, 200, 210, 0.9]], np.float32))[0]
    assert wide[2] - wide[0] == pytest.approx(121)
    assert wide[3] - wide[1] == pytest.approx(149)
    assert (wide[1] + wide[3]) / 2 == pytest.approx(160 - 10.7)


@pytest.mark.parametrize("given", ["1,2,3", "1,2,x,4", "5,5,5,9", "1,2,nan,4"])
def test_bad_boxes_are_refused(given):
    with pytest.raises(UsageError, match="left,top,right,bottom"):
        parse_box(given)
