"""Training pictures of the detector: faces of all sizes pasted into backgrounds."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from mmtoolkit.landmarks.data.face import Boxes, Face, Image
from mmtoolkit.landmarks.detection.detector import detector_box
from mmtoolkit.landmarks.rendering.render import Array
from mmtoolkit.landmarks.rendering.scenery import draw_background

STORED = 192  # side of stored pictures: the largest face then has about 120 pixels
SMALLEST, LARGEST = 14.0, 210.0  # longer side of a pasted face in pixels


@dataclass(frozen=True)
class FaceBank:
    """Small pictures with one face each, and pictures without faces.

    Attributes:
        images: `(n, STORED, STORED, 3)` RGB.
        boxes: `(n, 4)` boxes of the faces, in pixels of `images`.
        scenes: `(m, STORED, STORED, 3)` photographs without faces; may be empty.
    """

    images: NDArray[np.uint8]
    boxes: Boxes
    scenes: NDArray[np.uint8]


def fill_bank(faces: Iterable[Face], scenes: Sequence[Image]) -> FaceBank:
    """Shrink pictures with and without faces to squares."""
    images, boxes = [], []
    for face in faces:
        height, width = face.image.shape[:2]
        scale = STORED / max(height, width)
        canvas = np.full((STORED, STORED, 3), 127, np.uint8)
        small = cv2.resize(
            face.image, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_AREA
        )
        canvas[: small.shape[0], : small.shape[1]] = small
        images.append(canvas)
        boxes.append(detector_box(face.points, face.weights) * np.float32(scale))
    empty = [cv2.resize(scene, (STORED, STORED), interpolation=cv2.INTER_AREA) for scene in scenes]
    rest = np.array(empty, np.uint8).reshape(-1, STORED, STORED, 3)
    return FaceBank(np.stack(images), np.stack(boxes).astype(np.float32), rest)


def draw_scene(bank: FaceBank, side: int, rng: np.random.Generator) -> tuple[Image, Boxes, NDArray[np.bool_]]:
    """Draw a picture `(side, side, 3)` with up to three faces.

    Returns:
        The picture, the boxes `(n, 4)`, and a mask `(side, side)` of areas that may show unlabelled faces:
        the surroundings of the pasted faces.
    """
    picture = _draw_scenery(bank, side, rng)
    unknown = np.zeros((side, side), bool)
    boxes: list[Boxes] = []
    taken: list[Boxes] = []
    for _ in range(rng.integers(0, 3)):
        _paste_decoy(picture, bank, rng)
    for _ in range(rng.choice([0, 1, 2, 3], p=[0.2, 0.5, 0.2, 0.1])):
        number = int(rng.integers(len(bank.images)))
        placed = _place(bank, number, side, rng)
        if placed is None or any(_touch(placed[1], other) for other in taken):
            continue
        matrix, area, box = placed
        _paste(picture, bank.images[number], matrix, area, box, rng)
        left, top, right, bottom = np.clip(np.round(area), 0, side).astype(int)
        unknown[top:bottom, left:right] = True
        taken.append(area)
        boxes.append(box)
    picture = _degrade(picture, rng)
    return picture, np.array(boxes, np.float32).reshape(-1, 4), unknown


def _draw_scenery(bank: FaceBank, side: int, rng: np.random.Generator) -> Image:
    if len(bank.scenes) == 0 or rng.random() < 0.25:
        small = draw_background(side // 2, rng)
        return (cv2.resize(small, (side, side)) * 255).astype(np.uint8)
    scene = bank.scenes[rng.integers(len(bank.scenes))]
    if rng.random() < 0.5:
        scene = scene[:, ::-1]
    part = int(rng.uniform(0.4, 1.0) * STORED)
    left, top = rng.integers(0, STORED - part + 1, 2)
    return np.ascontiguousarray(cv2.resize(scene[top : top + part, left : left + part], (side, side)))


def _place(
    bank: FaceBank, number: int, side: int, rng: np.random.Generator
) -> tuple[Array, Boxes, Boxes] | None:
    """Draw the position of a stored picture: its affine map `(2, 3)`, the area it covers, its face's box."""
    box = bank.boxes[number]
    # uniform in the logarithm, so that small and large faces are equally common
    size = float(np.exp(rng.uniform(np.log(SMALLEST), np.log(min(LARGEST, 0.95 * side)))))
    scale = size / float((box[2:] - box[:2]).max())
    flip = rng.random() < 0.5
    if flip:
        box = np.array([STORED - 1 - box[2], box[1], STORED - 1 - box[0], box[3]], np.float32)
    room = side - (box[2:] - box[:2]) * scale
    if room.min() < 0:
        return None
    corner = rng.uniform(-0.1 * size, room + 0.1 * size)
    shift = corner - box[:2] * scale
    matrix = np.array([[scale, 0, shift[0]], [0, scale, shift[1]]])
    area = np.concatenate([shift, shift + STORED * scale]).astype(np.float32)
    placed = np.concatenate([corner, corner + (box[2:] - box[:2]) * scale]).astype(np.float32)
    if flip:
        matrix = matrix @ np.array([[-1, 0, STORED - 1], [0, 1, 0], [0, 0, 1.0]])
    return matrix, area, placed


def _touch(one: Boxes, other: Boxes) -> bool:
    return bool((np.minimum(one[2:], other[2:]) > np.maximum(one[:2], other[:2])).all())


def _paste_decoy(picture: Image, bank: FaceBank, rng: np.random.Generator) -> None:
    """Paste a part of a scene, so that the edges of a pasted rectangle do not reveal a face."""
    side = len(picture)
    scale = float(np.exp(rng.uniform(np.log(0.1), np.log(0.7))))
    corner = rng.uniform(-0.1, 1 - 0.5 * scale, 2) * side
    matrix = np.array([[scale, 0, corner[0]], [0, scale, corner[1]]]) * [side / STORED, side / STORED, 1]
    area = np.concatenate([corner, corner + side * scale]).astype(np.float32)
    patch = cv2.resize(_draw_scenery(bank, side, rng), (STORED, STORED), interpolation=cv2.INTER_AREA)
    _paste(picture, patch, matrix, area, area, rng)


def _paste(
    picture: Image, image: Array, matrix: Array, area: Boxes, box: Boxes, rng: np.random.Generator
) -> None:
    """Paste a stored picture by its map: its whole `area` or an oval around `box`, edges sharp or soft."""
    side = len(picture)
    scale = abs(matrix[0, 0])
    if scale < 0.5:  # low-pass before shrinking, against aliasing
        image = cv2.GaussianBlur(image, (0, 0), 0.4 / scale)
    warped = cv2.warpAffine(image, matrix, (side, side), flags=cv2.INTER_LINEAR)
    left, top, right, bottom = np.clip(np.round(area), 0, side).astype(int)
    mask: Array = np.zeros((side, side), np.float32)
    mask[top:bottom, left:right] = 1
    if rng.random() < 0.35:
        middle, reach = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) * rng.uniform(0.6, 0.9)
        oval = np.zeros((side, side), np.float32)
        centre, axes = (int(middle[0]), int(middle[1])), (int(reach[0]) + 1, int(reach[1]) + 1)
        cv2.ellipse(oval, centre, axes, 0, 0, 360, 1.0, -1)
        mask *= oval
    if rng.random() < 0.5:
        mask = cv2.GaussianBlur(mask, (0, 0), float(rng.uniform(1, 1 + 0.05 * (right - left + 1))))
    blend = mask[..., None] * (warped.astype(np.float32) - picture)
    picture[:] = np.clip(picture + blend, 0, 255).astype(np.uint8)


def _degrade(picture: Image, rng: np.random.Generator) -> Image:
    """Change brightness, colours, sharpness and noise."""
    levels: Array = picture.astype(np.float32) * np.float32(
        np.exp(rng.normal(0, 0.25, 3) * 0.4 + rng.normal(0, 0.25))
    )
    levels += np.float32(rng.normal(0, 15))
    if rng.random() < 0.15:
        levels[:] = levels.mean(axis=2, keepdims=True)
    if rng.random() < 0.25:
        levels = cv2.GaussianBlur(levels, (0, 0), float(rng.uniform(0.4, 1.5)))
    if rng.random() < 0.4:
        levels += rng.normal(0, rng.uniform(1, 10), levels.shape).astype(np.float32)
    degraded: Image = np.clip(levels, 0, 255).astype(np.uint8)
    return degraded
