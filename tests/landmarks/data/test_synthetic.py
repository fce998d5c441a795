import itertools

import cv2
import numpy as np
import pytest

from mmtoolkit.landmarks.data.points import FLIP
from mmtoolkit.landmarks.data.synthetic import Camera, face_points, render_face, render_faces
from mmtoolkit.landmarks.rendering.head import contour_strips, draw_head, lift, mean_layout, surface
from mmtoolkit.landmarks.rendering.render import (
    even_spacing,
    rasterise,
    rotation_matrix,
    vertex_normals,
    visible_contour,
)


@pytest.fixture(scope="module")
def faces():
    return list(render_faces(12, size=96, seed=5))


def test_a_face_depends_on_seed_and_number_alone(faces):
    repeated = next(itertools.islice(render_faces(99, size=96, seed=5), 3, None))
    assert np.array_equal(repeated.image, faces[3].image)
    assert np.array_equal(repeated.points, faces[3].points)
    other = next(render_faces(1, size=96, seed=6))
    assert not np.array_equal(other.image, faces[0].image)


def test_faces_lie_inside_their_pictures_and_fill_them(faces):
    for face in faces:
        assert face.image.shape == (96, 96, 3)
        low, high = face.points.min(0), face.points.max(0)
        assert (low >= 0).all()
        assert (high <= 95).all()
        assert 0.38 * 96 < (high - low).max() < 0.65 * 96
        assert (face.weights == 1).all()


def test_the_mean_layout_is_symmetric():
    layout = mean_layout()
    mirrored = layout[FLIP] * (-1, 1)
    assert np.allclose(layout[33:], mirrored[33:])
    assert (layout[74] == layout[104]).all()


def test_points_follow_the_head_that_is_drawn():
    """Draw a head with a white dot painted on each point's triangle: it must appear at the label."""
    head = draw_head(np.random.default_rng(2))
    vertices, _, triangles = surface(head)
    camera = Camera(rotation_matrix(12, -5, 8), 8.0, 70.0, np.float32([110, 100]))
    labels = face_points(head, camera)
    shown = camera.project(vertices)
    for number in (35, 54, 60, 68, 87, 102):
        position = lift(head, head.layout[number : number + 1])
        glow = np.exp(-(((vertices - position) / 0.06) ** 2).sum(1))[:, None]
        image, _ = rasterise(shown, triangles, glow.astype(np.float32), 256, 220)
        total = image[..., 0]
        rows, columns = np.mgrid[:256, :220]
        seen = np.array([(total * columns).sum(), (total * rows).sum()]) / total.sum()
        assert np.linalg.norm(seen - labels[number]) < 2.5, number


@pytest.mark.parametrize("yaw", [-40, 0, 40])
def test_the_contour_is_the_silhouette_of_the_side_that_turns_away(yaw):
    head = draw_head(np.random.default_rng(0))
    camera = Camera(rotation_matrix(yaw, 0, 0), 1e4, 60.0, np.float32([120, 100]))
    contour = face_points(head, camera)[:33]
    every = camera.project(contour_strips(head))[..., :2]
    assert contour[0, 0] < contour[32, 0]
    assert contour[:, 0].min() >= every[..., 0].min() - 1
    if yaw > 0:  # the nose points right: the right cheek's outline hides the right jaw
        assert contour[20:32, 0].mean() > every[20:32, 0, 0].mean() + 2
    if yaw < 0:
        assert contour[1:13, 0].mean() < every[1:13, 0, 0].mean() - 2


def test_positive_angles_turn_right_down_and_clockwise():
    nose, ear = np.float32([0, 0, 1]), np.float32([1, 0, 0])
    assert (rotation_matrix(20, 0, 0) @ nose)[0] > 0
    assert (rotation_matrix(0, 20, 0) @ nose)[1] > 0
    assert (rotation_matrix(0, 0, 20) @ ear)[1] > 0
    turn = rotation_matrix(20, -10, 35)
    assert np.allclose(turn @ turn.T, np.eye(3), atol=1e-6)
    assert np.isclose(np.linalg.det(turn), 1, atol=1e-6)


def test_the_rasteriser_agrees_with_a_slow_one():
    rng = np.random.default_rng(1)
    screen = np.concatenate([rng.uniform(-4, 28, (24, 2)), rng.normal(size=(24, 1))], 1).astype(np.float32)
    triangles = rng.integers(0, 24, (14, 3)).astype(np.int32)
    values = rng.random((24, 2)).astype(np.float32)
    image, depth = rasterise(screen, triangles, values, 24, 24)
    expected, nearest = _slow_rasterise(screen, triangles, values, 24)
    assert (np.isfinite(depth) != np.isfinite(nearest)).mean() < 0.01  # edges may fall either way
    both = np.isclose(depth, nearest, atol=1e-3) & np.isfinite(nearest)
    assert both.sum() > 0.98 * np.isfinite(nearest).sum()
    assert np.allclose(image[both], expected[both], atol=1e-3)


def _slow_rasterise(screen, triangles, values, side):
    image, depth = np.zeros((side, side, 2)), np.full((side, side), -np.inf)
    for y, x in itertools.product(range(side), range(side)):
        for corners in triangles:
            system = np.vstack([screen[corners, :2].T, np.ones(3)]).astype(float)
            if abs(np.linalg.det(system)) < 1e-9:
                continue
            shares = np.linalg.solve(system, [x, y, 1])
            z = shares @ screen[corners, 2]
            if (shares >= -1e-6).all() and z > depth[y, x]:
                depth[y, x], image[y, x] = z, shares @ values[corners]
    return image, depth


def test_normals_of_a_head_point_outwards():
    head = draw_head(np.random.default_rng(3))
    vertices, _, triangles = surface(head)
    normals = vertex_normals(vertices, triangles)
    cheek = np.argmin(np.linalg.norm(vertices - lift(head, np.float32([[0.5, 0.5]])), axis=1))
    assert normals[cheek, 2] > 0.5
    assert normals[cheek, 0] > 0


def test_even_spacing_keeps_ends_and_equalises_steps():
    line = np.float32([[0, 0], [1, 0], [4, 0], [4, 2]])
    points = even_spacing(line, 7)
    assert np.allclose(points[[0, -1]], line[[0, -1]])
    assert np.allclose(np.linalg.norm(np.diff(points, axis=0), axis=1), 1)


def test_an_unturned_contour_stays_on_the_jaw():
    jaw = np.stack([np.linspace(-1, 1, 33), 1 - np.linspace(-1, 1, 33) ** 2], 1)
    inward = np.linspace(1, 0.3, 5)[None, :, None]
    strips = jaw[:, None] * np.concatenate([inward, np.ones_like(inward)], 2)
    contour = visible_contour(strips.astype(np.float32))
    assert np.allclose(contour[[0, 16, 32]], jaw[[0, 16, 32]], atol=1e-6)
    away = np.linalg.norm(contour[:, None] - jaw[None], axis=2).min(1)
    assert away.max() < 0.06  # half the distance between two of them


def test_eyes_are_drawn_where_the_points_are():
    """The darkest part of an open eye's opening is at the pupil, over many faces without glasses."""
    hits = 0
    for number in range(12):
        face = render_face("x.png", 160, np.random.default_rng([11, number]))
        grey = cv2.GaussianBlur(cv2.cvtColor(face.image, cv2.COLOR_RGB2GRAY), (0, 0), 1.0).astype(float)
        x, y = np.round(face.points[104]).astype(int)
        around = grey[y - 6 : y + 7, x - 9 : x + 10]
        hits += grey[y - 1 : y + 2, x - 1 : x + 2].mean() < around.mean()
    assert hits >= 9
