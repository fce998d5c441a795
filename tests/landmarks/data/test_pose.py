import numpy as np
import pytest

from mmtoolkit.landmarks.data.points import FLIP
from mmtoolkit.landmarks.data.pose import _INDICES, _SHAPE, head_pose
from mmtoolkit.landmarks.data.synthetic import Camera, face_points
from mmtoolkit.landmarks.rendering.head import draw_head, lift
from mmtoolkit.landmarks.rendering.render import rotation_matrix


@pytest.mark.parametrize("angles", [(0, 0, 0), (25, 0, 0), (0, -20, 0), (0, 0, 40), (-50, 15, -20)])
def test_the_mean_face_itself_is_found_exactly(angles):
    points = np.full((106, 2), np.nan, np.float32)
    points[_INDICES] = 80 * (_SHAPE @ rotation_matrix(*angles).T)[:, :2] + 100
    assert np.allclose(head_pose(points), angles, atol=0.01)
    known = np.isfinite(points[:, 0]).astype(np.float32)
    known[55:66] = 0
    points[55:66] = np.nan
    assert np.allclose(head_pose(points, known), angles, atol=0.01)
    assert head_pose(points, np.zeros(106, np.float32)) == (0, 0, 0)


def test_a_mirrored_face_looks_the_other_way():
    head = draw_head(np.random.default_rng(1))
    points = face_points(head, Camera(rotation_matrix(20, 8, 5), 9.0, 60.0, np.float32([0, 0])))
    yaw, pitch, roll = head_pose(points)
    mirrored = head_pose(points[FLIP] * np.float32([-1, 1]))
    assert np.allclose(mirrored, (-yaw, pitch, -roll), atol=0.01)


def test_heads_of_the_renderer_have_their_pose_on_average():
    """Faces differ, so one face is off by some degrees; many of them must not be off one way."""
    rng, off = np.random.default_rng(0), []
    for _ in range(150):
        head, angles = draw_head(rng), rng.normal(0, (20, 10, 12))
        camera = Camera(rotation_matrix(*angles), float(rng.uniform(5, 14)), 60.0, np.float32([0, 0]))
        off.append(np.array(head_pose(face_points(head, camera))) - angles)
    bias, spread = np.mean(off, axis=0), np.std(off, axis=0)
    assert (np.abs(bias) < (1.5, 4, 1)).all(), bias
    assert (spread < (6, 7, 3)).all(), spread


def test_depth_of_the_mean_face_is_that_of_the_renderers():
    """Both heads look straight on at pitch 0: laid onto each other, they turn by less than 2 degrees."""
    rng = np.random.default_rng(1)
    mean = np.mean([lift(head, head.layout) for head in (draw_head(rng) for _ in range(60))], axis=0)
    ours, theirs = (shape - shape.mean(0) for shape in (_SHAPE, mean[_INDICES].astype(np.float64)))
    left, _, right = np.linalg.svd(theirs.T @ ours)
    turn = left @ right
    assert np.degrees(np.arccos((np.trace(turn) - 1) / 2)) < 2
