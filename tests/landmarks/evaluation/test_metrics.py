import dataclasses
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmtoolkit.core.errors import DataError
from mmtoolkit.landmarks.data.points import SUBSET_79, conversion
from mmtoolkit.landmarks.data.read import Annotation
from mmtoolkit.landmarks.data.text import write_points_txt
from mmtoolkit.landmarks.evaluation.metrics import (
    group_labels,
    point_errors,
    read_predictions,
    score_faces,
    summarise,
)


def truth_of(points, name="a.jpg", scheme="jd106"):
    weights, box = np.ones(len(points), np.float32), np.array([0, 0, 1, 1], np.float32)
    return Annotation(name, Path(name), points, weights, scheme, box)


def square_face():
    """106 points in a box of 40 x 90: d = 60."""
    rng = np.random.default_rng(1)
    points = rng.uniform(0, 1, (106, 2)) * [40, 90]
    points[0], points[1] = (0, 0), (40, 90)
    return points.astype(np.float32)


def test_nme_by_hand():
    points = square_face()
    predicted = points + np.array([3, 4], np.float32)
    np.testing.assert_allclose(point_errors(truth_of(points), predicted), 5 / 60, rtol=1e-4)
    one_off = points.copy()
    one_off[7] += [0, 6]
    found = score_faces([truth_of(points)], {"a.jpg": one_off}).metrics
    assert found["nme"] == pytest.approx(6 / 60 / 106, rel=1e-4)
    assert found["auc"] == pytest.approx(1 - 6 / 60 / 106 / 0.08, rel=1e-4)
    assert found["failure_rate"] == 0
    moved = score_faces([truth_of(points)], {"a.jpg": predicted})
    assert moved.offset == pytest.approx((3 / 60, 4 / 60), rel=1e-4)


def test_missing_predictions_are_failures_but_not_in_the_mean():
    found = summarise(np.array([0.02, np.nan, 0.08, 0.3]))
    assert found["nme"] == pytest.approx((0.02 + 0.08 + 0.3) / 3)
    assert found["auc"] == pytest.approx((0.75 + 0 + 0 + 0) / 4)
    assert found["failure_rate"] == 0.75
    assert (found["faces"], found["missing"]) == (4, 1)


@given(st.lists(st.floats(0, 0.3) | st.just(float("nan")), min_size=1, max_size=30), st.floats(0.01, 0.2))
def test_auc_is_the_area_under_the_curve(errors, alpha):
    """The identity against the area of the step function, summed step by step."""
    values = np.array(errors)
    below = np.sort(values[values < alpha])
    area = sum((alpha - v) / len(values) for v in below)
    assert summarise(values, alpha)["auc"] == pytest.approx(area / alpha, abs=1e-9)


def test_68_points_are_scored_through_the_map():
    points = square_face()
    ibug = conversion("jd106", "ibug68")(points)[0]
    truth = truth_of(ibug, scheme="ibug68")
    np.testing.assert_allclose(point_errors(truth, points), 0, atol=1e-6)
    size = np.sqrt(np.prod(np.ptp(ibug, axis=0)))
    np.testing.assert_allclose(point_errors(truth, points + np.float32([6, 8])), 10 / size, rtol=1e-4)


def test_79_points_are_those_of_the_third_challenge():
    points = square_face()
    others = np.ones(106, bool)
    others[SUBSET_79] = False
    predicted = points.copy()
    predicted[others] += 50
    assert score_faces([truth_of(points)], {"a.jpg": predicted}, subset_79=True).metrics["nme"] == 0
    assert score_faces([truth_of(points)], {"a.jpg": predicted}).metrics["nme"] > 0.1
    ibug = truth_of(conversion("jd106", "ibug68")(points)[0], scheme="ibug68")
    with pytest.raises(DataError, match="79 points"):
        score_faces([ibug], {"a.jpg": points}, subset_79=True)


def test_parts_and_groups(faces):
    truths = [Annotation.of(face) for face in faces]
    predicted = {face.name: face.points.copy() for face in faces}
    for points in predicted.values():
        points[84:104] += 3
    found = score_faces(truths, predicted)
    assert found.parts["contour"] == 0
    assert found.parts["mouth"] > 0.01
    by_pose = [v for name, v in found.groups.items() if name.startswith("yaw")]
    assert sum(v["faces"] for v in by_pose) == len(faces)


def test_unlabelled_points_do_not_count():
    points = square_face()
    weights = np.ones(106, np.float32)
    weights[50:] = 0
    truth = dataclasses.replace(truth_of(points), weights=weights)
    predicted = points.copy()
    predicted[50:] += 100
    assert score_faces([truth], {"a.jpg": predicted}).metrics["nme"] == 0


def test_open_mouth_and_closed_eyes_are_derived_from_the_points(faces):
    face = dataclasses.replace(faces[0], yaw=-37.0, expression="")
    points = face.points.copy()
    points[102] = points[98] + [0, np.linalg.norm(points[84] - points[90])]
    points[[68, 77]] = points[[72, 81]]
    found = group_labels(Annotation.of(dataclasses.replace(face, points=points)))
    assert found == ["yaw 30-45", "mouth open", "eyes closed"]


def test_predictions_come_from_folders_and_zips(tmp_path):
    points = square_face()
    (tmp_path / "p" / "sub").mkdir(parents=True)
    (tmp_path / "p" / "sub" / "a.jpg.txt").write_text(write_points_txt(points))
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as archive:
        archive.writestr("a.jpg.txt", write_points_txt(points))
    for path in (tmp_path / "p", tmp_path / "p.zip"):
        found = read_predictions(path)
        assert list(found) == ["a.jpg"]
        np.testing.assert_allclose(found["a.jpg"], points, atol=1e-3)
    (tmp_path / "p" / "a.jpg.txt").write_text(write_points_txt(points))
    with pytest.raises(DataError, match=r"two predictions for a\.jpg"):
        read_predictions(tmp_path / "p")
    with pytest.raises(DataError, match="no prediction for any"):
        score_faces([truth_of(points, "b.jpg")], {"a.jpg": points})
