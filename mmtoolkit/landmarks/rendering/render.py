"""A small z-buffer rasteriser and the visible contour of a turned head.

Axes everywhere: x to the image's right, y down, z towards the viewer.
"""

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
"""An array of numbers; the docstrings give its shape."""


def rotation_matrix(yaw: float, pitch: float, roll: float) -> Array:
    """Return the 3 x 3 rotation of a head: roll after pitch after yaw, all in degrees.

    Positive yaw turns the nose to the image's right, positive pitch turns it down, positive roll
    turns the face clockwise.
    """
    (sy, sp, sr), (cy, cp, cr) = (f(np.radians([yaw, pitch, roll])) for f in (np.sin, np.cos))
    around_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    around_x = np.array([[1, 0, 0], [0, cp, sp], [0, -sp, cp]])
    around_z = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    turn: Array = (around_z @ around_x @ around_y).astype(np.float32)
    return turn


def vertex_normals(vertices: Array, triangles: NDArray[np.int32]) -> Array:
    """Return unit normals `(vertices, 3)`, each the area-weighted mean of the triangles around it."""
    corners = vertices[triangles]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    total: Array = np.stack(
        [np.bincount(triangles.ravel(), np.repeat(normals[:, axis], 3), len(vertices)) for axis in range(3)],
        axis=1,
    )
    total /= np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-12)
    return total.astype(np.float32)


def _rasterise(
    screen: Array, triangles: NDArray[np.int32], attributes: Array, height: int, width: int
) -> tuple[Array, Array]:
    image = np.zeros((height, width, attributes.shape[1]), np.float32)
    depth = np.full((height, width), -np.inf, np.float32)
    for t in range(len(triangles)):
        a, b, c = triangles[t]
        ax, ay, bx, by, cx, cy = (
            screen[a, 0], screen[a, 1], screen[b, 0], screen[b, 1], screen[c, 0], screen[c, 1],
        )  # fmt: skip
        area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
        if area == 0:
            continue
        left, right = max(0, int(np.ceil(min(ax, bx, cx)))), min(width - 1, int(max(ax, bx, cx)))
        top, bottom = max(0, int(np.ceil(min(ay, by, cy)))), min(height - 1, int(max(ay, by, cy)))
        for y in range(top, bottom + 1):
            for x in range(left, right + 1):
                u = ((bx - x) * (cy - y) - (by - y) * (cx - x)) / area
                v = ((cx - x) * (ay - y) - (cy - y) * (ax - x)) / area
                w = 1 - u - v
                # barycentric coordinates are all positive inside the triangle, whatever its orientation
                if u < -1e-6 or v < -1e-6 or w < -1e-6:
                    continue
                z = u * screen[a, 2] + v * screen[b, 2] + w * screen[c, 2]
                if z > depth[y, x]:
                    depth[y, x] = z
                    for k in range(attributes.shape[1]):
                        image[y, x, k] = u * attributes[a, k] + v * attributes[b, k] + w * attributes[c, k]
    return image, depth


_compiled: Any = numba.njit(cache=True)(_rasterise)


def rasterise(
    screen: Array, triangles: NDArray[np.int32], attributes: Array, height: int, width: int
) -> tuple[Array, Array]:
    """Draw triangles with a z-buffer and interpolate the attributes of their vertices.

    Args:
        screen: `(vertices, 3)`, pixel coordinates and depth, nearer is larger.
        triangles: `(triangles, 3)` vertex numbers, in either orientation.
        attributes: `(vertices, channels)` values to interpolate.
        height: height of the image in pixels.
        width: width of the image in pixels.

    Returns:
        The attributes `(height, width, channels)` and the depth `(height, width)`, -inf at uncovered pixels.
    """
    image, depth = _compiled(
        np.ascontiguousarray(screen, np.float32),
        np.ascontiguousarray(triangles, np.int32),
        np.ascontiguousarray(attributes, np.float32),
        height,
        width,
    )
    return image, depth


def visible_contour(strips: Array) -> Array:
    """Move contour points of a turned head to its silhouette.

    A strip holds the positions that a contour point may take: it starts on the jaw line and runs over
    the cheek. Where the cheek hides the jaw, the outermost position of the strip is the visible contour.

    Args:
        strips: `(contour, positions, 2)` projected to the image, the jaw line first; the chin's strip is the
            middle one.

    Returns:
        `(contour, 2)`, evenly spaced from both ends to the chin.
    """
    half = len(strips) // 2
    contour = strips[np.arange(len(strips)), outermost_positions(strips)]
    left, right = even_spacing(contour[: half + 1], half + 1), even_spacing(contour[half:], half + 1)
    return np.concatenate([left, right[1:]])


def outermost_positions(strips: Array) -> NDArray[np.int64]:
    """Return the outermost position of each strip `(contour, positions, 2)`; for the chin the first."""
    half = len(strips) // 2
    reach = strips @ (strips[-1, 0] - strips[0, 0])
    reach[:half] *= -1
    outermost: NDArray[np.int64] = reach.argmax(axis=1)
    outermost[half] = 0
    return outermost


def even_spacing(line: Array, count: int) -> Array:
    """Return `count` points at equal distances along a polyline `(points, 2)`, its ends included."""
    steps = np.linalg.norm(np.diff(line, axis=0), axis=1)
    length = np.concatenate([[0.0], np.cumsum(steps)])
    wanted = np.linspace(0, length[-1], count)
    return np.stack([np.interp(wanted, length, line[:, axis]) for axis in range(2)], axis=1).astype(
        np.float32
    )
