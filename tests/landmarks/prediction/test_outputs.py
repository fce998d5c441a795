import csv
import dataclasses
import json

import cv2
import numpy as np
import pytest

from mmtoolkit.core.errors import UsageError
from mmtoolkit.landmarks.data.text import read_points_txt
from mmtoolkit.landmarks.prediction.outputs import OutputFolder, align_face
from mmtoolkit.landmarks.prediction.pictures import Prediction, find_faces, list_pictures, predict_pictures


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


def test_files_of_a_video_are_named_by_track(landmarker, faces, tmp_path):
    ((face,),) = find_faces(landmarker, [faces[0].image], [np.append(faces[0].box, 1)[None]])
    tracked = [dataclasses.replace(face, track=track) for track in (2, 0)]
    with OutputFolder(tmp_path / "out", ["txt"]) as folder:
        folder.write(Prediction("000007", faces[0].image, tracked, 25.0))
    assert sorted(f.name for f in (tmp_path / "out/txt").iterdir()) == ["000007.2.txt", "000007.txt"]
