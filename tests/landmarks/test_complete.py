import itertools
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from mmtoolkit.core.errors import DataError, UsageError
from mmtoolkit.landmarks.complete import FARTHEST, complete, cut_border, draw_turns
from mmtoolkit.landmarks.completion.fit import Fit, fit_head
from mmtoolkit.landmarks.completion.ict import cast_rays, load_ict
from mmtoolkit.landmarks.completion.labels import (
    FROM_CONTOUR,
    FROM_MESH,
    UNSEEN,
    complete_points,
    find_pupil,
    project_points,
)
from mmtoolkit.landmarks.completion.rotate import make_relief
from mmtoolkit.landmarks.data.points import IBUG_POSITIONS, conversion
from mmtoolkit.landmarks.data.read import read_annotations
from mmtoolkit.landmarks.data.synthetic import render_face
from mmtoolkit.landmarks.data.text import write_pts
from mmtoolkit.landmarks.rendering.head import Head, contour_strips, draw_head, lift, surface
from mmtoolkit.landmarks.rendering.render import rotation_matrix

TO_CM, RAISED, FORWARD = 7.0, 3.4, 3.0  # from the procedural head's lengths and origin to the model's


@pytest.fixture(scope="module")
def model_path(tmp_path_factory):
    """A stand-in of the same format: procedural heads as identities, opened jaws as expressions."""
    return write_model(tmp_path_factory.mktemp("ict") / "model.npz")


@pytest.fixture(scope="module")
def model(model_path):
    return load_ict(model_path)


def write_model(path: Path) -> Path:
    heads = [_mean_head(), *(draw_head(np.random.default_rng(n)) for n in range(8))]
    meshes = [_to_model(surface(head)[0]) for head in heads]
    neutral, shapes = meshes[0], np.stack([mesh - meshes[0] for mesh in meshes[1:]])
    jaw = np.clip((4.0 - (neutral[:, 1] + 4.0)) / 4, 0, 1)[:, None] * [0, -1.0, 0]
    triangles = surface(heads[0])[2]
    half = len(triangles) // 2
    quads = np.stack(
        [triangles[:half, 0], triangles[:half, 1], triangles[half:, 2][:half], triangles[:half, 2]], 1
    )
    irises = [np.full((1, 4), _nearest(neutral, x), np.int32) for x in (0.45, -0.45)]
    np.savez(
        path,
        neutral=neutral,
        identity=shapes.astype(np.float16),
        expression=np.stack([jaw, 0.5 * jaw[::-1]]).astype(np.float16),
        quads=np.concatenate([quads, *irises]).astype(np.int32),
        material=np.concatenate([np.zeros(len(quads)), [2, 3]]).astype(np.uint8),
        material_names=np.array(["M_Face", "M_BackHead", "M_IrisLeft", "M_IrisRight"]),
        landmarks68=_ibug_vertices(heads[0], neutral),
    )
    return path


def _mean_head() -> Head:
    class Middling(np.random.Generator):
        """Draws means only."""

        def normal(self, loc=0.0, *_, size=None):
            return np.zeros(size) + loc if size is not None else np.asarray(loc) * 1.0

        def choice(self, a, *_, **__):
            return a[0]

    return draw_head(Middling(np.random.PCG64(0)))


def _to_model(positions):
    return (positions * [TO_CM, -TO_CM, TO_CM] + [0, RAISED, FORWARD]).astype(np.float32)


def _nearest(neutral, x, y=0.0):
    flat = np.array([x * TO_CM, RAISED - y * TO_CM])
    away = np.linalg.norm(neutral[:, :2] - flat, axis=1) + np.where(neutral[:, 2] < FORWARD, 99, 0)
    return int(away.argmin())


def _ibug_vertices(head, neutral):
    positions = lift(head, head.layout)
    positions[:33] = contour_strips(head)[:, 0]
    rows = [
        positions[int(p)] * (1 - p % 1) + positions[min(int(p) + 1, 105)] * (p % 1) for p in IBUG_POSITIONS
    ]
    wanted = _to_model(np.array(rows))
    return np.linalg.norm(neutral[None] - wanted[:, None], axis=2).argmin(1).astype(np.int32)


def photograph(model, seed=0, yaw=12.0):
    """Draw coefficients and a camera; return the true fit and its iBUG points."""
    rng = np.random.default_rng(seed)
    coefficients = np.concatenate([rng.normal(0, 0.25, model.identities), [0.5, 0.0]]).astype(np.float32)
    turn = rotation_matrix(yaw, 5, 6)
    truth = Fit(coefficients, turn, 11.0, np.float32([190, 200]), np.inf, 0.0)
    shown = truth.project(model.mesh(coefficients))[:, :2]
    points = shown[model.landmarks]
    drawn = project_points(model, truth)[:, :2]
    points[:17] = conversion("jd106", "ibug68")(drawn)[0][:17]
    return truth, points.astype(np.float32), drawn


def test_the_model_keeps_its_shapes_and_looks_forward(model):
    assert model.neutral[model.landmarks[30], 2] > model.neutral[model.landmarks[0], 2]
    assert model.neutral[model.landmarks[8], 1] > model.neutral[model.landmarks[27], 1]
    assert model.shapes.shape == (10, len(model.neutral), 3)
    assert np.allclose(model.mesh(np.zeros(10, np.float32)), model.neutral)


def test_rays_leave_a_cube_at_its_far_side():
    corners = np.array(list(itertools.product((0, 1), repeat=3)), np.float32)
    front = np.array([[1, 3, 5], [3, 7, 5], [0, 2, 4], [2, 6, 4]], np.int32)
    anchors = cast_rays(corners, front, np.float32([[0.3, 0.6, 0.5]]), np.float32([[0, 0, 1]]))
    assert np.allclose(anchors.of(corners), [[0.3, 0.6, 1.0]], atol=1e-6)


@pytest.mark.parametrize("yaw", [-30.0, 0.0, 25.0])
def test_a_fit_finds_the_pose_that_was_drawn(model, yaw):
    truth, points, _ = photograph(model, yaw=yaw)
    fit = fit_head(model, points)
    size = float(np.sqrt(np.ptp(points, axis=0).prod()))
    assert fit.error < 0.02 * size
    assert np.allclose(fit.angles, truth.angles, atol=6)
    assert abs(truth.angles[0] - yaw) < 1.5


def test_completion_keeps_the_human_points_and_finds_the_others(model):
    _, points, drawn = photograph(model)
    image = np.full((400, 400, 3), 128, np.uint8)
    found = complete_points(model, image, points)
    twins, known = conversion("ibug68", "jd106")(points)
    keep = known.copy()
    keep[[74, 83, 104, 105]] = False
    assert np.allclose(found.points[keep], twins[keep])
    assert (found.confidence[keep] == 1).all()
    assert found.confidence[40] == np.float32(FROM_MESH)
    assert found.confidence[[0, 32]].tolist() == [FROM_CONTOUR] * 2
    size = float(np.sqrt(np.ptp(drawn, axis=0).prod()))
    away = np.linalg.norm(found.points - drawn, axis=1) / size
    assert away.mean() < 0.02
    assert away[[39, 48, 57, 63]].max() < 0.06


def test_the_pupil_is_the_dark_disc_between_the_lids():
    angle = np.linspace(np.pi, 3 * np.pi, 8, endpoint=False)
    lids = np.stack([100 + 40 * np.cos(angle), 60 + 14 * np.sin(angle)], 1).astype(np.float32)
    image = np.full((120, 200, 3), 220, np.uint8)
    cv2.circle(image, (112, 60), 12, (40, 30, 30), -1)
    pupil, sure = find_pupil(image, lids)
    assert np.linalg.norm(pupil - [112, 60]) < 4
    assert sure > UNSEEN
    shut = lids.copy()
    shut[:, 1] = 60
    pupil, sure = find_pupil(image, shut)
    assert sure == UNSEEN
    assert np.allclose(pupil, [100, 60], atol=1)


def test_the_points_of_a_turned_face_turn_with_it(model):
    truth, points, _ = photograph(model, yaw=10)
    image = np.random.default_rng(0).integers(0, 255, (400, 400, 3), np.uint8)
    image = cv2.GaussianBlur(image, (0, 0), 3)
    found = complete_points(model, image, points)
    relief = make_relief(model, image, found)
    same, still = relief.turn(0, 0)
    assert np.allclose(still, found.points, atol=0.5)
    assert np.abs(same[100:300, 100:300].astype(int) - image[100:300, 100:300]).mean() < 4
    _, right = relief.turn(20, 0)
    nose, cheek = right[54] - still[54], right[3] - still[3]
    assert nose[0] > 10
    assert nose[0] > cheek[0]
    turned = Fit(truth.coefficients, rotation_matrix(20, 0, 0) @ truth.rotation, 11.0, truth.shift, np.inf, 0)
    expected = project_points(model, turned)[:, :2]
    inner = [54, 60, 66, 70, 75, 79, 84, 90, 35, 44]
    moved = (right[inner] - right[54]) - (expected[inner] - expected[54])
    assert np.abs(moved).max() < 0.06 * np.ptp(expected, axis=0).max()


def test_turns_stay_in_range_and_mostly_continue():
    rng = np.random.default_rng(0)
    turns = np.array(draw_turns(25.0, 0.0, 200, rng))
    assert (np.abs(25 + turns[:, 0]) <= FARTHEST + 1e-6).all()
    assert (turns[:, 0] > 0).mean() > 0.8


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(2):
        face = render_face("x", 200, np.random.default_rng([4, number]))
        cv2.imwrite(str(folder / f"face{number}.jpg"), face.image[..., ::-1])
        points = conversion("jd106", "ibug68")(face.points)[0]
        (folder / f"face{number}.pts").write_text(write_pts(points))
    return folder


def test_a_completed_set_reads_back_with_weights_and_poses(source, model_path, tmp_path):
    result = complete(source, tmp_path / "out", model_path, views=2, seed=1)
    assert (result.photographs, result.written) == (2, 6)
    items = read_annotations(tmp_path / "out")
    assert [item.name for item in items[:3]] == ["face0.jpg", "face0_turned1.jpg", "face0_turned2.jpg"]
    assert items[0].scheme == "jd106"
    assert 0 < items[0].weights.min() < 1
    assert items[0].weights[16] == 1
    assert items[1].weights.max() < 1
    assert items[0].yaw is not None
    repeated = complete(source, tmp_path / "second", model_path, views=2, seed=1)
    assert repeated.errors == result.errors
    second = read_annotations(tmp_path / "second")
    assert all(np.array_equal(a.points, b.points) for a, b in zip(items, second, strict=True))


def test_shifted_labels_are_corrected_first(mmtk, source, model_path, tmp_path):
    arguments = ["landmarks", "complete", source, "--model", model_path, "--views", 0, "-q"]
    assert mmtk(*arguments, tmp_path / "as_given").exit_code == 0
    assert mmtk(*arguments, tmp_path / "moved", "--shift", "-1.5", "2").exit_code == 0
    for given, moved in zip(*(read_annotations(tmp_path / n) for n in ("as_given", "moved")), strict=True):
        human = given.weights == 1
        steps = moved.points[human] - given.points[human]
        np.testing.assert_allclose(steps, [[-1.5, 2]] * human.sum(), atol=0.01)
        np.testing.assert_allclose(moved.box - given.box, [-1.5, 2, -1.5, 2], atol=1)


def test_mistakes_are_summary_before_anything_is_written(source, model_path, tmp_path):
    with pytest.raises(DataError, match="not an ICT-FaceKit light model"):
        complete(source, tmp_path / "out", source / "face0.jpg")
    np.savez(tmp_path / "other.npz", neutral=np.zeros(3))
    with pytest.raises(DataError, match=r"other\.npz"):
        complete(source, tmp_path / "out", tmp_path / "other.npz")
    assert not (tmp_path / "out").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(UsageError, match="not empty"):
        complete(source, tmp_path / "full", model_path)


def test_a_broken_picture_or_model_leaves_nothing(source, model_path, tmp_path):
    with np.load(model_path) as archive:
        arrays = dict(archive)
    for name, value in (("material_names", np.array(["M_Other"])), ("quads", arrays["quads"] * 0)):
        np.savez(tmp_path / "other.npz", **(arrays | {name: value}))
        with pytest.raises(DataError, match="not the head of ICT-FaceKit light"):
            complete(source, tmp_path / "out", tmp_path / "other.npz")
    (source / "face1.jpg").write_bytes(b"not a picture")
    with pytest.raises(DataError, match="cannot be read as a picture"):
        complete(source, tmp_path / "out", model_path, views=0)
    assert not (tmp_path / "out").exists()


def test_the_command_writes_what_its_dry_run_announces(mmtk, source, model_path, tmp_path):
    output = tmp_path / "out"
    arguments = ["landmarks", "complete", source, output, "--model", model_path, "--views", 1, "--json", "-q"]
    planned = mmtk(*arguments, "--dry-run")
    assert planned.exit_code == 0, planned.output
    assert json.loads(planned.stdout)["faces"] == 4
    assert not output.exists()
    done = mmtk(*arguments)
    assert done.exit_code == 0, done.output
    summary = json.loads(done.stdout)
    assert summary["faces"] == len(list((output / "picture").iterdir())) == 4
    assert 0 < summary["median_fit_error"] < 0.05
    refused = mmtk(*arguments)
    assert refused.exit_code == 2
    assert "not empty" in refused.output


def test_labels_that_lack_points_are_refused(mmtk, jd_folder, model_path, tmp_path):
    weights = np.ones(106)
    weights[60] = 0
    folder = tmp_path / "partly"
    shutil.copytree(jd_folder, folder)
    (folder / "weight").mkdir(exist_ok=True)
    first = sorted((folder / "picture").iterdir())[0].name
    np.savetxt(folder / "weight" / f"{first}.txt", weights)
    refused = mmtk("landmarks", "complete", folder, tmp_path / "out", "--model", model_path)
    assert refused.exit_code == 2
    assert first in refused.output.replace("\n", "")
    assert "1 of the 68 iBUG points are not labelled" in refused.output.replace("\n", "")


def test_cut_borders_blacken_one_side_and_keep_the_points():
    face = render_face("x", 160, np.random.default_rng(8))
    for number in range(12):
        picture = np.full_like(face.image, 9)
        cut_border(picture, face.points, np.random.default_rng(number))
        dark = (picture == 0).all(axis=2)
        rows, columns = dark.all(axis=1), dark.all(axis=0)
        assert dark.any() == (rows.any() or columns.any())
        assert dark.sum() == max(rows.sum(), columns.sum()) * 160
        assert not dark.all()
