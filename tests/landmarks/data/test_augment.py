import dataclasses

import cv2
import numpy as np
import pytest

from mmtoolkit.landmarks.config import AugmentSettings, ModelSettings, StageSettings
from mmtoolkit.landmarks.data.augment import blacken, draw_probabilities, join_crops, make_batch, store_crops
from mmtoolkit.landmarks.data.points import FLIP

MODEL = ModelSettings(size=64, stages=(StageSettings(channels=8), StageSettings(channels=8)))
STILL = AugmentSettings(
    box_jitter=0,
    rotation=0,
    stretch=0,
    flip=0,
    colour=0,
    grey=0,
    blur=0,
    low_resolution=0,
    occlusion=0,
    noise=0,
)


@pytest.fixture(scope="module")
def crops(faces):
    return store_crops(faces, len(faces), MODEL, rendered=True)


def dotted(faces, index):
    """The same face with a white dot on one point of a black picture."""
    face = faces[0]
    image = np.zeros_like(face.image)
    x, y = face.points[index]
    cv2.circle(image, (round(float(x) * 16), round(float(y) * 16)), 3 * 16, (255, 255, 255), -1, shift=4)
    return dataclasses.replace(face, image=image)


@pytest.mark.parametrize("change", ["rotation", "stretch", "flip", "box_jitter"])
@pytest.mark.parametrize("index", [54, 84, 79])
def test_points_move_with_the_picture(faces, index, change):
    value = {"rotation": 60.0, "stretch": 0.3, "flip": 1.0, "box_jitter": 1.0}[change]
    settings = STILL.model_copy(update={change: value})
    crops = store_crops([dotted(faces, index)] * 8, 8, MODEL, rendered=True)
    batch = make_batch(crops, np.arange(8), MODEL, settings, np.random.default_rng(3))
    moved = FLIP.index(index) if change == "flip" else index
    for image, points in zip(batch.images.numpy(), batch.points.numpy(), strict=True):
        bright = image.mean(0)
        found = np.array([(bright.sum(0) * np.arange(64)).sum(), (bright.sum(1) * np.arange(64)).sum()])
        np.testing.assert_allclose(found / bright.sum(), points[moved] * 64 - 0.5, atol=0.35)


def test_without_changes_a_batch_is_the_official_crop(crops):
    batch = make_batch(crops, np.arange(4), MODEL, STILL, np.random.default_rng(0))
    assert batch.images.shape == (4, 3, 64, 64)
    assert 0.0 < batch.points.min() < batch.points.max() < 1.0
    width = np.ptp(batch.points[:, :, 1].numpy(), axis=1)
    assert ((width > 0.4) & (width < 0.9)).all()


def test_a_batch_depends_on_its_draws_alone(crops):
    rows, settings = np.arange(12), AugmentSettings()
    first, repeated = (make_batch(crops, rows, MODEL, settings, np.random.default_rng(7)) for _ in range(2))
    other = make_batch(crops, rows, MODEL, settings, np.random.default_rng(8))
    assert first.images.equal(repeated.images)
    assert first.points.equal(repeated.points)
    assert not first.images.equal(other.images)


def test_a_part_of_a_batch_equals_that_part_of_the_whole(crops):
    """Without other faces in front: those come from the same process's pictures."""
    settings = AugmentSettings(occlusion=0)
    whole = make_batch(crops, np.arange(12), MODEL, settings, np.random.default_rng(7))
    part = make_batch(crops, np.arange(12), MODEL, settings, np.random.default_rng(7), slice(6, 12))
    assert part.images.equal(whole.images[6:])
    assert part.points.equal(whole.points[6:])
    assert part.weights.equal(whole.weights[6:])


LOOKS = ["colour", "grey", "blur", "low_resolution", "occlusion", "border", "noise"]


@pytest.mark.parametrize("name", LOOKS)
def test_every_look_changes_the_picture_and_not_the_points(crops, name):
    coloured = np.ptp(crops.images.astype(int), axis=-1).max((1, 2)) > 40  # some pictures are grey already
    rows = np.flatnonzero(coloured)[:6]
    value = {"colour": 0.5, "noise": 0.1}.get(name, 1.0)
    settings = STILL.model_copy(update={name: value})
    still = make_batch(crops, rows, MODEL, STILL, np.random.default_rng(1))
    changed = make_batch(crops, rows, MODEL, settings, np.random.default_rng(1))
    assert (changed.images != still.images).flatten(1).any(1).all()
    assert changed.points.equal(still.points)
    if name == "grey":
        assert changed.images[:, 0].equal(changed.images[:, 2])


@pytest.mark.parametrize(
    ("side", "black"), [(0, np.s_[:4]), (1, np.s_[:, 12:]), (2, np.s_[12:]), (3, np.s_[:, :4])]
)
def test_a_border_blackens_the_side_it_names(side, black):
    image, wanted = np.full((2, 16, 16, 3), 9, np.uint8)
    blacken(image, side, share=0.25, slope=0.0)
    wanted[black] = 0
    np.testing.assert_array_equal(image, wanted)


def test_pose_balance_sets_how_often_turned_faces_are_drawn(crops):
    yaw = np.array([0] * 9 + [50] * 3, np.float32)
    crops = dataclasses.replace(crops, yaw=yaw)
    assert draw_probabilities(crops, 0.0, 0.5)[9:].sum() == pytest.approx(0.25)
    assert draw_probabilities(crops, 1.0, 0.5)[9:].sum() == pytest.approx(0.5)
    photos = dataclasses.replace(crops, rendered=np.zeros(12, bool))
    both = draw_probabilities(join_crops([crops, photos]), 1.0, 0.3)
    assert both[:12].sum() == pytest.approx(0.3)
    assert both.sum() == pytest.approx(1)
