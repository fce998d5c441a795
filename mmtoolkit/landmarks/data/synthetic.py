"""The embedded data set: rendered pictures of procedural faces with exact points.

A head is shaped (`rendering.head`), painted (`rendering.paint`), turned, lit and put into a scene
(`rendering.scenery`); the labels follow from the geometry.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from mmtoolkit.landmarks.data.face import Face, jitter_box
from mmtoolkit.landmarks.rendering.head import (
    Head,
    contour_strips,
    draw_head,
    lift,
    surface,
    texture_positions,
)
from mmtoolkit.landmarks.rendering.paint import paint_head
from mmtoolkit.landmarks.rendering.render import (
    Array,
    rasterise,
    rotation_matrix,
    vertex_normals,
    visible_contour,
)
from mmtoolkit.landmarks.rendering.scenery import (
    draw_background,
    draw_glasses,
    draw_occluder,
    light_factor,
    take_picture,
)

OVERSAMPLING = 2  # pictures are drawn this much larger, then averaged


@dataclass(frozen=True)
class Camera:
    """A pinhole camera in front of a turned head.

    Attributes:
        rotation: `(3, 3)` of the head.
        distance: from the camera to the head's origin; small distances distort more.
        scale: pixels per unit at the origin.
        centre: `(2,)` pixel of the origin.
    """

    rotation: Array
    distance: float
    scale: float
    centre: Array

    def project(self, positions: Array) -> Array:
        """Return pixels and depth (nearer is larger), `(..., 3)`, of positions in head coordinates."""
        turned = positions @ self.rotation.T
        pixels = (
            turned[..., :2] * (self.scale * self.distance / (self.distance - turned[..., 2:])) + self.centre
        )
        return np.concatenate([pixels, turned[..., 2:]], axis=-1).astype(np.float32)


def render_faces(count: int, size: int = 192, seed: int = 0) -> Iterator[Face]:
    """Yield rendered faces; the n-th face of a seed does not depend on their number.

    Args:
        count: number of faces.
        size: width and height of each picture in pixels.
        seed: seed of every draw.
    """
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        yield render_face(f"face_{seed}_{number:06d}.png", size, rng)


def render_face(name: str, size: int, rng: np.random.Generator) -> Face:
    """Draw one face, all of it inside the picture."""
    head = draw_head(rng)
    yaw, pitch, roll = _draw_pose(rng)
    camera = Camera(
        rotation_matrix(yaw, pitch, roll), float(rng.uniform(5, 14)), 1.0, np.zeros(2, np.float32)
    )
    camera = _frame(camera, face_points(head, camera), size * OVERSAMPLING, rng)
    points = face_points(head, camera)
    picture = cv2.resize(draw_background(size, rng), None, fx=OVERSAMPLING, fy=OVERSAMPLING)
    _draw_head(picture, head, camera, rng)
    box = np.concatenate([points.min(0), points.max(0)])
    if rng.random() < 0.22:
        _wear_glasses(picture, head, camera, rng)
    if rng.random() < 0.15:
        draw_occluder(picture, box, rng)
    small = cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA)
    points = ((points + 0.5) / OVERSAMPLING - 0.5).astype(np.float32)
    ones = np.ones(len(points), np.float32)
    expression = "open_mouth" if head.layout[102, 1] - head.layout[98, 1] > 0.08 else "neutral"
    box = jitter_box(points, ones, rng)
    return Face(name, take_picture(small, rng), points, ones, box, yaw, pitch, roll, expression)


def face_points(head: Head, camera: Camera) -> Array:
    """Return the 106 points `(106, 2)` of a head in the picture, the contour on its silhouette."""
    points = camera.project(lift(head, head.layout))[:, :2]
    points[:33] = visible_contour(camera.project(contour_strips(head))[..., :2])
    return points


def _draw_pose(rng: np.random.Generator) -> tuple[float, float, float]:
    """Draw yaw, pitch and roll in degrees; one face in five has a uniform yaw, up to 65 degrees."""
    yaw = rng.uniform(-65, 65) if rng.random() < 0.2 else np.clip(rng.normal(0, 20), -65, 65)
    return float(yaw), float(np.clip(rng.normal(0, 10), -30, 30)), float(np.clip(rng.normal(0, 12), -45, 45))


def _frame(camera: Camera, points: Array, size: int, rng: np.random.Generator) -> Camera:
    """Scale and shift the face so that it fills 40 to 62 % of the picture and stays inside it."""
    low, high = points.min(0), points.max(0)
    scale = float(size * rng.uniform(0.40, 0.62) / (high - low).max())
    room = size - (high - low) * scale
    corner = room * np.clip(rng.normal([0.5, 0.6], 0.1), 0.1, 0.9)
    return Camera(camera.rotation, camera.distance, scale, (corner - low * scale).astype(np.float32))


def _body(head: Head, rng: np.random.Generator) -> list[tuple[Array, NDArray[np.int32], Array]]:
    """Return ears and neck: vertices, triangles, and the point of the skin that gives the colour."""
    turn, tilt = np.meshgrid(np.linspace(0, 2 * np.pi, 17), np.linspace(0, np.pi, 9))
    ball = np.stack([np.cos(turn) * np.sin(tilt), -np.cos(tilt), np.sin(turn) * np.sin(tilt)], -1).reshape(
        -1, 3
    )
    rows, columns = tilt.shape
    corner = (np.arange(rows - 1)[:, None] * columns + np.arange(columns - 1)).ravel()
    triangles = np.concatenate(
        [
            np.stack([corner, corner + columns, corner + 1], 1),
            np.stack([corner + 1, corner + columns, corner + columns + 1], 1),
        ]
    ).astype(np.int32)
    width = float(np.interp(0.3, head.outline[:, 0], head.outline[:, 1]))
    stand, long = rng.uniform(0.08, 0.22), rng.uniform(0.35, 0.48)
    parts = [
        (ball * (stand, long, 0.24) + (side * (width + 0.05), 0.25, -0.25), side * 0.6) for side in (-1, 1)
    ]
    neck = rng.uniform(0.55, 0.8)
    parts.append((ball * (neck, 2.2, neck) + (0, head.chin + 1.0, -0.35), 0.0))
    return [
        (vertices.astype(np.float32), triangles, np.array([side, 0.75], np.float32))
        for vertices, side in parts
    ]


def _draw_head(picture: Array, head: Head, camera: Camera, rng: np.random.Generator) -> None:
    """Draw head, ears and neck over a picture in place."""
    vertices, positions, triangles = surface(head)
    meshes = [(vertices, triangles, positions)]
    for part, faces, skin in _body(head, rng):
        meshes.append((part, faces, np.repeat(texture_positions(head, skin[None]), len(part), axis=0)))
    offset = np.cumsum([0, *(len(v) for v, _, _ in meshes[:-1])])
    normals = np.concatenate([vertex_normals(v, t) for v, t, _ in meshes]) @ camera.rotation.T
    shown = camera.project(np.concatenate([v for v, _, _ in meshes]))
    attributes = np.concatenate([np.concatenate([p for _, _, p in meshes]), normals], axis=1)
    faces = np.concatenate([t + first for (_, t, _), first in zip(meshes, offset, strict=True)])
    drawn, depth = rasterise(shown, faces, attributes, *picture.shape[:2])
    covered = np.isfinite(depth)
    skin = cv2.remap(paint_head(head, rng), drawn[..., 0], drawn[..., 1], cv2.INTER_LINEAR)[covered]
    normals = drawn[covered, 2:]
    length = np.sqrt(np.einsum("ij,ij->i", normals, normals))[:, None]
    factor, gloss = light_factor(normals / np.maximum(length, 1e-6), rng)
    picture[covered] = np.clip(skin * factor + gloss, 0, 1)


def _wear_glasses(picture: Array, head: Head, camera: Camera, rng: np.random.Generator) -> None:
    angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    power = rng.uniform(0.4, 1.0)
    ring = np.stack([np.sign(f) * np.abs(f) ** power for f in (np.cos(angle), np.sin(angle))], 1)
    radius, drop = (rng.uniform(0.27, 0.36), rng.uniform(0.18, 0.32)), rng.uniform(0, 0.12)
    front = float(lift(head, np.array([[0.0, 0.05]], np.float32))[0, 2]) + 0.03
    rims = []
    for side in (-1, 1):
        flat = ring * radius + (side * (0.08 + radius[0]), drop)
        depth = front - 0.12 * np.abs(flat[:, :1]) ** 2
        rims.append(np.concatenate([flat, depth], axis=1).astype(np.float32))
    bridge = np.stack([rims[0][0], rims[1][12]])
    arms = [np.stack([rims[0][12], [-1.05, 0.0, 0.0]]), np.stack([rims[1][0], [1.05, 0.0, 0.0]])]
    near = arms if abs(float(camera.rotation[0, 2])) < 0.1 else [arms[int(camera.rotation[0, 2] < 0)]]
    lines = [camera.project(line.astype(np.float32))[:, :2] for line in (bridge, *near)]
    draw_glasses(picture, [camera.project(rim)[:, :2] for rim in rims], lines, rng)
