"""Turn a photographed face: the picture on a relief of depths, seen from another side.

As in the face profiling of Zhu et al. 2016 (300W-LP, arXiv 1511.07212), with a height field instead of their
background mesh: the fitted head gives each pixel a depth, which falls off smoothly around the head.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from mmtoolkit.landmarks.completion.ict import POSITIONS, IctModel, behind_jaw
from mmtoolkit.landmarks.completion.labels import Completed
from mmtoolkit.landmarks.data.face import Image
from mmtoolkit.landmarks.rendering.render import Array, rasterise, rotation_matrix, visible_contour

CELLS = 160
OPENINGS = ([*range(66, 75)], [*range(75, 84)], [*range(96, 104)])  # eyes with their centres, mouth
_SLOPE = 0.35  # increase of the scene's depth for each pixel away from the head


@dataclass(frozen=True)
class Relief:
    """A photograph with a depth for every pixel.

    Attributes:
        image: `(height, width, 3)` RGB.
        depth: `(height, width)` in pixels, nearer is larger.
        points: `(106, 3)` points of the face, with depths.
        strips: `(33, positions, 3)` possible positions of the contour's points, in pixels and depth.
        pivot: `(3,)` centre of the turns, inside the head.
        pose: `(3, 3)` rotation of the head in the photograph.
        scale: pixels per centimetre.
    """

    image: Image
    depth: Array
    points: Array
    strips: Array
    pivot: Array
    pose: Array
    scale: float

    def turn(self, yaw: float, pitch: float) -> tuple[Image, Array]:
        """Return picture and points `(106, 2)` after turning by some degrees to the right and down.

        The picture keeps its size and is black outside of the photograph. Turning a face further in the
        direction in which it looks shows little that was hidden.
        """
        height, width = self.image.shape[:2]
        rotation = rotation_matrix(yaw, pitch, 0.0)

        def turned(positions: Array) -> Array:
            return ((positions - self.pivot) @ rotation.T + self.pivot).astype(np.float32)

        vertices, triangles = _grid(self.depth)
        drawn, depth = rasterise(turned(vertices), triangles, vertices[:, :2], height, width)
        picture = cv2.remap(self.image, drawn[..., 0], drawn[..., 1], cv2.INTER_LINEAR)
        picture[~np.isfinite(depth)] = 0
        points = turned(self.points)[:, :2]
        # the offset of the human labels from the head's contour is kept through the turn
        by_hand = self.points[:33, :2] - self._contour(np.eye(3))
        points[:33] = self._contour(rotation) + by_hand
        return picture.astype(np.uint8), points

    def _contour(self, rotation: Array) -> Array:
        """Return the head's own contour `(33, 2)` after a turn."""
        strips = (self.strips - self.pivot) @ rotation.T + self.pivot
        pose = rotation @ self.pose
        strips[:, 0] += self.scale * behind_jaw(pose) @ pose.T
        return visible_contour(strips[..., :2])


def make_relief(model: IctModel, image: Image, face: Completed) -> Relief:
    """Give each pixel of a photograph the depth of the head that was fitted to its face."""
    mesh = model.mesh(face.fit.coefficients)
    shown = face.fit.project(mesh)
    shown[:, :2] = face.warp(shown[:, :2])
    points = np.column_stack([face.points, face.depths])
    strips = model.contour.of(shown).reshape(33, POSITIONS, 3)
    depth = depth_relief(shown, model.skin, *image.shape[:2])
    for ring in OPENINGS:
        _close_opening(depth, points[ring])
    inside = float(np.median(shown[model.landmarks, 2])) - 6 * face.fit.scale
    return Relief(
        image,
        depth,
        points,
        strips,
        np.array([*face.points.mean(axis=0), inside], np.float32),
        face.fit.rotation,
        face.fit.scale,
    )


def depth_relief(shown: Array, triangles: NDArray[np.int32], height: int, width: int) -> Array:
    """Return a depth in pixels `(height, width)` for every pixel: the head's, and a slope around it."""
    _, depth = rasterise(shown, triangles, shown[:, 2:], height, width)
    covered = np.isfinite(depth)
    away, nearest = cv2.distanceTransformWithLabels(
        (~covered).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    edge = np.zeros(int(nearest.max()) + 1, np.float32)
    edge[nearest[covered]] = depth[covered]
    relief = np.where(covered, depth, 0.0).astype(np.float32)
    outside = edge[nearest] - _SLOPE * away
    relief[~covered] = outside[~covered]
    smooth = cv2.GaussianBlur(relief, (0, 0), 0.02 * max(height, width))
    share = cv2.GaussianBlur(covered.astype(np.float32), (0, 0), 0.01 * max(height, width))
    return relief * share + smooth * (1 - share)


def _close_opening(depth: Array, ring: Array) -> None:
    """Give the pixels between lids or lips the depths of the points `(n, 3)` around them, in place.

    The skin has holes between them, through which the inside of the head would show.
    """
    hull = cv2.convexHull(ring[:, :2].astype(np.float32))
    canvas: Array = np.zeros(depth.shape, np.uint8)
    cv2.fillConvexPoly(canvas, np.round(hull).astype(np.int32), 1)
    reach = max(3, round(0.12 * float(np.ptp(ring[:, 0]))))
    canvas = cv2.dilate(canvas, np.ones((reach, reach), np.uint8))
    rows, columns = np.nonzero(canvas)
    if len(rows):
        away = np.hypot(columns[:, None] - ring[:, 0], rows[:, None] - ring[:, 1])
        shares = 1 / (away + 1) ** 2
        depth[rows, columns] = (shares * ring[:, 2]).sum(axis=1) / shares.sum(axis=1)


def _grid(depth: Array) -> tuple[Array, NDArray[np.int32]]:
    """Return the vertices `(n, 3)` of a grid over the picture, and its triangles."""
    height, width = depth.shape
    xs, ys = np.meshgrid(
        np.linspace(0, width - 1, CELLS, dtype=np.float32),
        np.linspace(0, height - 1, CELLS, dtype=np.float32),
    )
    corner = (np.arange(CELLS - 1)[:, None] * CELLS + np.arange(CELLS - 1)).ravel()
    upper = np.stack([corner, corner + 1, corner + CELLS], axis=1)
    lower = np.stack([corner + 1, corner + CELLS + 1, corner + CELLS], axis=1)
    positions = np.stack([xs, ys, cv2.remap(depth, xs, ys, cv2.INTER_LINEAR)], axis=-1)
    return positions.reshape(-1, 3), np.concatenate([upper, lower]).astype(np.int32)
