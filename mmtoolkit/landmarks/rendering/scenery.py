"""Surroundings of a face: backgrounds, light, occluders, and the defects of a camera."""

import cv2
import numpy as np
from numpy.typing import NDArray

from mmtoolkit.landmarks.rendering.render import Array

Image = NDArray[np.uint8]


def draw_background(size: int, rng: np.random.Generator) -> Array:
    """Return a picture `(size, size, 3)` in [0, 1] without a face: gradients, clutter, letters, textures."""
    corners = rng.random((2, 2, 3)).astype(np.float32) * rng.uniform(0.3, 1)
    picture: Array = cv2.resize(corners, (size, size), interpolation=cv2.INTER_LINEAR)
    for _ in range(rng.integers(0, 12)):
        _draw_shape(picture, rng)
    if rng.random() < 0.5:
        picture = cv2.GaussianBlur(picture, (0, 0), float(rng.uniform(0.5, 0.05 * size)))
    for cells in rng.choice([3, 6, 12, 25, 50], rng.integers(0, 4), replace=False):
        coarse = rng.normal(0, rng.uniform(0.02, 0.15), (cells, cells, 3 if rng.random() < 0.3 else 1))
        layer = cv2.resize(coarse.astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
        picture += layer if layer.ndim == 3 else layer[..., None]
    if rng.random() < 0.2:
        wave = np.sin(np.arange(size) * rng.uniform(0.05, 1.2))
        picture += 0.15 * (wave[:, None, None] if rng.random() < 0.5 else wave[None, :, None]).astype(
            np.float32
        )
    return np.clip(picture, 0, 1)


def _draw_shape(picture: Array, rng: np.random.Generator) -> None:
    size = len(picture)
    colour = tuple(rng.random(3).tolist())
    at = rng.uniform(-0.1, 1.1, 2) * size
    reach = rng.uniform(0.03, 0.35, 2) * size
    centre, axes = (int(at[0]), int(at[1])), (int(reach[0]) + 1, int(reach[1]) + 1)
    kind = rng.integers(4)
    if kind == 3:
        _write_letters(picture, centre, rng)
    elif kind == 0:
        cv2.ellipse(picture, centre, axes, float(rng.uniform(0, 180)), 0, 360, colour, -1, cv2.LINE_AA)
    elif kind == 1:
        corners = at + rng.normal(0, 1, (int(rng.integers(3, 6)), 2)) * reach
        cv2.fillPoly(picture, [corners.astype(np.int32)], colour, cv2.LINE_AA)
    else:
        other = (at + rng.normal(0, 0.5, 2) * size).astype(int)
        width = int(rng.integers(1, max(2, size // 20)))
        cv2.line(picture, centre, (int(other[0]), int(other[1])), colour, width, cv2.LINE_AA)


def _write_letters(picture: Array, at: tuple[int, int], rng: np.random.Generator) -> None:
    size = len(picture)
    letters = "".join(map(chr, rng.integers(33, 123, rng.integers(1, 12))))
    scale, width = float(rng.uniform(0.0015, 0.01) * size), int(rng.integers(1, 2 + size // 60))
    canvas = np.zeros((size, size), np.uint8)
    cv2.putText(canvas, letters, at, int(rng.integers(8)), scale, 255, width, cv2.LINE_AA)
    picture += (canvas / np.float32(255))[..., None] * (rng.random(3).astype(np.float32) - picture)


def light_factor(normals: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """Draw two lights and an ambient one.

    Args:
        normals: `(pixels, 3)` unit normals, z towards the viewer.
        rng: draws the lights.

    Returns:
        The factor on the colour of the skin `(pixels, 3)`, and the highlights to add `(pixels, 1)`.
    """
    warmth = (1 + rng.normal(0, 0.06) * np.array([1, 0, -1])).astype(np.float32)
    factor = np.full(normals.shape, rng.uniform(0.3, 0.65), np.float32)
    gloss = np.zeros((len(normals), 1), np.float32)
    for strength in (rng.uniform(0.35, 0.85), rng.choice([0, rng.uniform(0, 0.5)])):
        direction = np.array([0, -0.35, 0.8]) + rng.normal(0, [0.8, 0.5, 0.3])
        direction /= np.linalg.norm(direction)
        halfway = direction + np.array([0, 0, 1])
        halfway /= np.linalg.norm(halfway)
        facing = np.clip(normals @ np.stack([direction, halfway], axis=1).astype(np.float32), 0, 1)
        factor += np.float32(strength) * facing[:, :1] * warmth
        gloss += np.float32(strength * rng.uniform(0, 0.25)) * facing[:, 1:] ** np.float32(rng.uniform(8, 40))
    return factor, gloss


def draw_occluder(picture: Array, box: Array, rng: np.random.Generator) -> None:
    """Draw one occluder, such as a hand, a cup or a strip of cloth, in front of a face, in place."""
    size = box[2:] - box[:2]
    edge = rng.uniform(0, 2 * np.pi)
    at = (box[:2] + box[2:]) / 2 + 0.55 * size * [np.cos(edge), np.sin(edge)]
    reach = np.maximum(size * rng.uniform(0.12, 0.4, 2), 2)
    layer, mask = np.empty_like(picture), np.zeros(picture.shape[:2], np.uint8)
    layer[:] = rng.choice([rng.random(3), np.array([0.8, 0.6, 0.5]) * rng.uniform(0.4, 1.1)])
    layer *= 1 + 0.08 * cv2.resize(rng.normal(size=(9, 9)).astype(np.float32), mask.shape[::-1])[..., None]
    angles = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(4, 14))))
    ring = (
        np.stack([np.cos(angles), np.sin(angles)], 1) * rng.uniform(0.6, 1.2, (len(angles), 1)) * reach + at
    )
    cv2.fillPoly(mask, [ring.astype(np.int32)], 255, cv2.LINE_AA)
    soft = (cv2.GaussianBlur(mask, (0, 0), 0.8) / np.float32(255))[..., None]
    picture += soft * (np.clip(layer, 0, 1) - picture)


def draw_glasses(picture: Array, rims: list[Array], arms: list[Array], rng: np.random.Generator) -> None:
    """Draw glasses in place: rims `(n, 2)` around both eyes, the bridge and arms as lines."""
    unit = float(np.ptp(rims[0][:, 0]))
    frame = tuple((rng.random(3) * rng.choice([0.15, 0.9])).tolist())
    width = max(1, round(unit * rng.uniform(0.02, 0.09)))
    layer = picture.copy()
    tint = rng.random(3) * 0.25
    lens = rng.choice([0.0, rng.uniform(0.05, 0.25), rng.uniform(0.6, 1.0)], p=[0.55, 0.3, 0.15])
    for rim in rims:
        cv2.fillPoly(layer, [np.round(rim * 16).astype(np.int32)], tuple(tint.tolist()), cv2.LINE_AA, 4)
    picture += np.float32(lens) * (layer - picture)
    for line, closed in [*((rim, True) for rim in rims), *((arm, False) for arm in arms)]:
        cv2.polylines(picture, [np.round(line * 16).astype(np.int32)], closed, frame, width, cv2.LINE_AA, 4)


def take_picture(picture: Array, rng: np.random.Generator) -> Image:
    """Turn a scene in [0, 1] into uint8 with a camera's gamma, blur, noise and compression."""
    picture = np.clip(picture * rng.uniform(0.75, 1.2), 0, 1) ** float(rng.uniform(0.7, 1.3))
    if rng.random() < 0.08:
        picture = np.repeat(picture.mean(axis=2, keepdims=True), 3, axis=2)
    if rng.random() < 0.5:
        picture = cv2.GaussianBlur(picture, (0, 0), float(rng.uniform(0.3, 1.4)))
    if rng.random() < 0.15:
        size = len(picture)
        small = cv2.resize(
            picture, None, fx=(scale := rng.uniform(0.35, 0.8)), fy=scale, interpolation=cv2.INTER_AREA
        )
        picture = cv2.resize(small, (size, size), interpolation=cv2.INTER_LINEAR)
    if rng.random() < 0.6:
        picture = picture + rng.normal(0, rng.uniform(0.005, 0.04), picture.shape).astype(np.float32)
    image = np.round(np.clip(picture, 0, 1) * 255).astype(np.uint8)
    if rng.random() < 0.3:
        _, packed = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(35, 95))])
        unpacked = cv2.imdecode(packed, cv2.IMREAD_COLOR)
        assert unpacked is not None
        return unpacked.astype(np.uint8)
    return image
