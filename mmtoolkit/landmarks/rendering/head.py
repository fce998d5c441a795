"""Procedural heads: a frontal layout of points, lifted onto a head-shaped surface.

Lengths are in units of about 70 mm; the origin is between the pupils. Axes as in
:mod:`mmtoolkit.landmarks.rendering.render`.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmtoolkit.landmarks.data.points import FLIP
from mmtoolkit.landmarks.rendering.render import Array, even_spacing

TEXTURE = 320
TOP, SPAN = -1.85, 4.2
ROWS, COLUMNS = 88, 96

# Half of the mean layout (the image's left), from common anthropometric proportions.
_BROW = [(-0.90, -0.30), (-0.74, -0.43), (-0.57, -0.47), (-0.39, -0.45), (-0.21, -0.38),
         (-0.20, -0.30), (-0.38, -0.355), (-0.56, -0.375), (-0.735, -0.345)]  # fmt: skip
_BROW_X, _BROW_Y = np.abs(np.array(_BROW)).T
_BROW_LINE = np.polynomial.Polynomial.fit(_BROW_X, -_BROW_Y, 2)  # height of a brow by |x|
_BRIDGE = [(0, -0.03), (0, 0.16), (0, 0.35), (0, 0.54)]
_NOSE = [(-0.13, 0.02), (-0.17, 0.45), (-0.27, 0.60), (-0.17, 0.67), (-0.085, 0.70), (0, 0.72)]
_EYE = [(-0.225, 0.00), (-0.165, -0.060), (0, -0.095), (0.135, -0.062), (0.215, 0.035),
        (0.125, 0.070), (0, 0.078), (-0.14, 0.052)]  # fmt: skip
_LIP = [(-0.37, 1.02), (-0.235, 0.945), (-0.09, 0.905), (0, 0.925)]
_LOWER_LIP = [(0, 1.175), (-0.125, 1.16), (-0.25, 1.105)]
_INNER_LIP = [(-0.33, 1.02), (-0.14, 1.005), (0, 1.01)]
_LOWER_INNER_LIP = [(0, 1.02), (-0.14, 1.015)]
_OUTLINE = np.array(  # height, half width
    [(-1.80, 0.0), (-1.70, 0.40), (-1.5, 0.70), (-1.2, 0.90), (-0.8, 1.0), (-0.3, 1.03), (0.1, 1.01),
     (0.5, 0.96), (0.85, 0.88), (1.1, 0.77), (1.3, 0.63), (1.45, 0.47), (1.56, 0.28), (1.62, 0.12),
     (1.63, 0.0)]
)  # fmt: skip
_MIDDLE = np.array([(-1.8, -0.2), (-0.6, -0.05), (0.3, 0.0), (0.9, 0.18), (1.3, 0.42), (1.63, 0.68)])
_DEPTH = np.array(
    [(-1.8, 0.15), (-1.2, 0.85), (-0.6, 1.03), (0.0, 0.98), (0.9, 0.78), (1.3, 0.56), (1.63, 0.22)]
)
CONTOUR_TOP = -0.02
_ACROSS = np.linspace(-1, 1, 401)  # across the texture, with more room for the front than for the back
_TURN = np.pi * (0.35 * _ACROSS + 0.65 * _ACROSS**3)


@dataclass(frozen=True)
class Head:
    """The shape of a face: its points from the front and their depths.

    Attributes:
        layout: `(106, 2)`; the 33 points of the contour depend on the pose and are not set.
        outline: `(n, 2)` height and half width of the head.
        middle: `(n, 2)` height and depth of the centre.
        depth: `(n, 2)` height and half depth.
        nose: protrusion of the nose.
        bulge: `(4,)` protrusion of brow ridge, lips, chin and cheeks.
        iris: radius of the irises.
        pupils: `(2, 2)` positions of the pupils.
    """

    layout: Array
    outline: Array
    middle: Array
    depth: Array
    nose: float
    bulge: Array
    iris: float
    pupils: Array

    @property
    def chin(self) -> float:
        """Height of the chin."""
        return float(self.outline[-1, 0])


def mean_layout() -> Array:
    """Return the average face's points `(106, 2)` from the front, without its contour."""
    layout = np.zeros((106, 2))
    layout[33:42], layout[51:55], layout[55:61] = _BROW, _BRIDGE, _NOSE
    layout[66:74] = np.array(_EYE) + np.array([-0.45, 0])
    layout[[74, 104]] = -0.45, -0.01
    layout[84:88], layout[93:96] = _LIP, _LOWER_LIP
    layout[96:99], layout[102:104] = _INNER_LIP, _LOWER_INNER_LIP
    right = [*range(42, 51), *range(61, 66), *range(75, 84), *range(88, 93), 99, 100, 101, 105]
    layout[right] = layout[np.array(FLIP)[right]] * (-1, 1)
    return layout.astype(np.float32)


def draw_head(rng: np.random.Generator) -> Head:
    """Draw identity and expression of one head."""
    layout, outline = mean_layout().astype(np.float64), _OUTLINE.copy()
    _vary_identity(layout, outline, rng)
    pupils = _vary_expression(layout, outline, rng)
    stretch = (outline[-1, 0] + 1.8) / (1.63 + 1.8)
    middle, depth = _MIDDLE.copy(), _DEPTH.copy()
    for table in (middle, depth):
        table[:, 0] = (table[:, 0] + 1.8) * stretch - 1.8
    depth[:, 1] *= rng.normal(1, 0.06)
    middle[-2:, 1] += rng.normal(0, 0.06)
    layout += rng.normal(0, 0.008, size=layout.shape)
    layout[[74, 83]] = layout[[104, 105]] = pupils
    return Head(
        layout.astype(np.float32),
        outline.astype(np.float32),
        middle.astype(np.float32),
        depth.astype(np.float32),
        float(np.clip(rng.normal(0.36, 0.07), 0.18, 0.6)),
        np.clip(rng.normal(1, 0.4, size=4), 0, 2.2).astype(np.float32),
        float(rng.uniform(0.085, 0.105)),
        pupils.astype(np.float32),
    )


def _scale(layout: Array, parts: list[int], centre: tuple[float, float], by: tuple[float, float]) -> None:
    layout[parts] = (layout[parts] - centre) * by + centre


def _vary_identity(layout: Array, outline: Array, rng: np.random.Generator) -> None:
    """Vary sizes and positions of the parts, mostly symmetrically."""

    def factor(deviation: float) -> float:
        return float(np.exp(rng.normal(0, deviation)))

    slant, brow_lift, brow_tilt = rng.normal(0, 0.10), rng.normal(0, 0.06), rng.normal(0, 0.12)
    eye, brow, thick = (factor(0.10), factor(0.18)), (factor(0.10), factor(0.2)), factor(0.35)
    spacing = rng.normal(0, 0.025)
    for side, x in ((range(33, 42), -0.55), (range(42, 51), 0.55)):
        points = list(side)
        _scale(layout, points, (x, -0.41), brow)
        layout[points, 1] += (layout[points, 1] - _BROW_LINE(np.abs(layout[points, 0]))) * (thick - 1)
        layout[points, 1] += brow_lift - brow_tilt * (np.abs(layout[points, 0]) - 0.55)
    for points, x in (([*range(66, 75), 104], -0.45), ([*range(75, 84), 105], 0.45)):
        _scale(layout, points, (x, 0), eye)
        layout[points, 1] -= slant * (np.abs(layout[points, 0]) - 0.45)
        layout[points, 0] += np.sign(x) * spacing
    length = factor(0.07)
    _scale(layout, list(range(51, 66)), (0, 0), (1, length))
    _scale(layout, list(range(56, 65)), (0, 0), (factor(0.12), 1))
    lips = list(range(84, 104))
    layout[lips, 1] += (length - 1) * 0.7
    _scale(layout, lips, (0, layout[lips, 1].mean()), (factor(0.10), 1))
    layout[84:88, 1] += (layout[84:88, 1] - layout[84, 1]) * rng.normal(0, 0.25)
    thick = factor(0.22)
    for outer in (range(85, 90), range(91, 96)):
        layout[list(outer), 1] = layout[84, 1] + (layout[list(outer), 1] - layout[84, 1]) * thick
    jaw, width = factor(0.08), factor(0.05)
    below = np.clip((outline[:, 0] - 0.2) / 1.4, 0, 1)
    outline[:, 1] *= width * (1 + (jaw - 1) * np.sin(np.pi * below**0.8))
    outline[:, 0] += below * ((length - 1) * 0.9 + rng.normal(0, 0.07))
    outline[outline[:, 0] < -0.6, 0] += rng.normal(0, 0.05)


def _vary_expression(layout: Array, outline: Array, rng: np.random.Generator) -> Array:
    """Open the mouth, smile, close the eyes, lift the brows; return the pupils `(2, 2)`."""
    lips = list(range(84, 104))
    smile = rng.choice([0.0, rng.uniform(-0.4, 1.0)], p=[0.4, 0.6])
    corner = (np.abs(layout[lips, 0]) / 0.37) ** 1.5
    layout[lips, 0] *= 1 + 0.22 * smile * corner
    layout[lips, 1] -= 0.09 * smile * corner
    opening = rng.choice([0.0, rng.beta(1.0, 2.2) * 0.75], p=[0.45, 0.55])
    middle = 1 - np.clip(np.abs(layout[:, 0]) / 0.42, 0, 1) ** 2
    lower, upper = [*range(91, 96), 101, 102, 103], [*range(85, 90), 97, 98, 99]
    layout[lower, 1] += opening * (0.25 + 0.75 * middle[lower])
    layout[upper, 1] -= (
        0.12 * opening * middle[upper] + 0.05 * max(smile, 0) * (opening > 0.05) * middle[upper]
    )
    layout[[84, 90, 96, 100], 1] += 0.35 * opening
    layout[lips, 0] *= 1 - 0.22 * opening * rng.random()
    outline[:, 0] += opening * 0.8 * np.clip((outline[:, 0] - 0.6) / 1.0, 0, 1)
    lids = rng.choice([1.0, 0.0, rng.uniform(0.1, 1.35)], p=[0.5, 0.1, 0.4])
    wink = rng.random() < 0.04
    gaze = np.clip(rng.normal(0, [0.05, 0.02]), [-0.1, -0.04], [0.1, 0.04])
    pupils = np.zeros((2, 2))
    for number, (eye, upper_lid, lower_lid) in enumerate(
        (((66, 70), (67, 68, 69), (73, 72, 71)), ((75, 79), (76, 77, 78), (82, 81, 80)))
    ):
        openness = lids if not (wink and number) else 0.03
        low = layout[list(lower_lid)]
        layout[list(upper_lid)] = low + (layout[list(upper_lid)] - low) * max(openness, 0.02)
        centre = (layout[eye[0]] + layout[eye[1]] + layout[upper_lid[1]] + low[1]) / 4
        pupils[number] = centre + gaze * (1, min(openness, 1))
    lift = rng.normal(0, 0.05) - 0.03 * max(lids - 1, 0)
    layout[33:51, 1] += lift + rng.normal(0, 0.05) * (0.55 - np.abs(layout[33:51, 0]))
    return pupils


def lift(head: Head, flat: Array, turn: Array | None = None) -> Array:
    """Project points seen from the front onto the head.

    Args:
        head: the head.
        flat: `(n, 2)` x and height; with `turn`, x is unused.
        turn: `(n,)` angle around the vertical axis in radians, 0 in front.

    Returns:
        `(n, 3)` points on the surface.
    """
    height = flat[:, 1]
    width = np.interp(height, head.outline[:, 0], head.outline[:, 1])
    middle = np.interp(height, head.middle[:, 0], head.middle[:, 1])
    depth = np.interp(height, head.depth[:, 0], head.depth[:, 1])
    depth *= np.sqrt(np.clip((head.chin - height) / 0.12, 0, 1))
    if turn is None:
        turn = np.arcsin(np.clip(flat[:, 0] / np.maximum(width, 1e-3), -1, 1))
    x = width * np.sin(turn)
    front = np.cos(turn)
    back = np.where(front < 0, 1.25, 1.0)
    z = middle + depth * front * back + _relief(head, x, height) * np.clip(front * 2, 0, 1)
    return np.stack([x, height, z], axis=1).astype(np.float32)


def _bump(x: Array, y: Array, at: tuple[float, float], width: float, height: float) -> Array:
    bump: Array = np.exp(-(((np.abs(x) - at[0]) / width) ** 2) - ((y - at[1]) / height) ** 2)
    return bump


def _relief(head: Head, x: Array, y: Array) -> Array:
    """Return the relief: nose, lips, brow ridge, chin and cheeks protrude, eye sockets recede."""
    points = head.layout
    root, tip, base = points[51, 1], points[54, 1], points[60, 1]
    lips, inner = points[[87, 93], 1], points[[98, 102], 1].mean()
    ys = [root - 0.2, root, tip - 0.12, tip, tip + 0.6 * (base - tip), base, base + 0.06]
    ridge: Array = np.interp(y, ys, np.array([0, 0.12, 0.85, 1.0, 0.75, 0.25, 0]) * head.nose)
    wing = abs(points[57, 0])
    spread = np.interp(y, [root, tip - 0.1, tip, base], [0.09, 0.11, 0.6 * wing, 0.9 * wing])
    total: Array = ridge * np.exp(-((x / spread) ** 2))
    total = total + 0.28 * head.nose * _bump(x, y, (0.72 * wing, points[57, 1]), 0.09, 0.08)
    total -= 0.13 * _bump(x, y, (0.43, 0.0), 0.26, 0.17) - 0.05 * _bump(x, y, (0.45, 0.0), 0.16, 0.10)
    total += head.bulge[0] * 0.06 * _bump(x, y, (0.4, points[35, 1]), 0.4, 0.12)
    for lip, size in zip(lips, (0.06, 0.08), strict=True):
        total += head.bulge[1] * size * _bump(x, y, (0.0, (2 * lip + inner) / 3), 0.26, 0.07)
    total += head.bulge[2] * 0.09 * _bump(x, y, (0.0, head.chin - 0.17), 0.24, 0.16)
    total += head.bulge[3] * 0.05 * _bump(x, y, (0.55, 0.5), 0.25, 0.28)
    total -= 0.04 * _bump(x, y, (0.0, lips[1] + 0.12), 0.25, 0.07)
    return total


def contour_strips(head: Head, positions: int = 24) -> Array:
    """Return the positions `(33, positions, 3)` that each contour point may take at a turned pose."""
    outline = head.outline[head.outline[:, 0] > CONTOUR_TOP]
    start = np.interp(CONTOUR_TOP, head.outline[:, 0], head.outline[:, 1])
    left = np.concatenate([[(-start, CONTOUR_TOP)], outline[:, ::-1] * (-1, 1)])
    height = even_spacing(left.astype(np.float32), 17)[:, 1]
    height = np.concatenate([height, height[-2::-1]])
    turn = np.radians(np.linspace(88, 28, positions))[None] * np.sign(np.arange(33) - 16)[:, None]
    flat = np.stack([np.zeros(33 * positions), np.repeat(height, positions)], axis=1)
    return lift(head, flat.astype(np.float32), turn.ravel()).reshape(33, positions, 3)


def surface(head: Head) -> tuple[Array, Array, NDArray[np.int32]]:
    """Return the head's vertices `(n, 3)`, texture positions `(n, 2)` in pixels, and triangles."""
    turn = np.interp(np.linspace(-1, 1, COLUMNS), _ACROSS, _TURN)
    height = np.concatenate([np.linspace(-1.8, -0.6, 22), np.linspace(-0.58, head.chin, ROWS - 22)])
    turns, heights = (a.ravel() for a in np.meshgrid(turn, height))
    flat = np.stack([np.zeros_like(heights), heights], axis=1).astype(np.float32)
    vertices = lift(head, flat, turns.astype(np.float32))
    corner = (np.arange(ROWS - 1)[:, None] * COLUMNS + np.arange(COLUMNS - 1)).ravel()
    lower = corner + COLUMNS
    triangles = np.concatenate(
        [np.stack([corner, corner + 1, lower], 1), np.stack([lower, corner + 1, lower + 1], 1)]
    )
    return vertices, _unroll(turns, heights), triangles.astype(np.int32)


def texture_positions(head: Head, flat: Array) -> Array:
    """Return the texture coordinates in pixels of points seen from the front, `(n, 2)`."""
    width = np.interp(flat[:, 1], head.outline[:, 0], head.outline[:, 1])
    turn = np.arcsin(np.clip(flat[:, 0] / np.maximum(width, 1e-3), -1, 1))
    return _unroll(turn, flat[:, 1])


def _unroll(turn: Array, height: Array) -> Array:
    across = np.interp(turn, _TURN, _ACROSS)
    positions = np.stack([(across + 1) / 2, (height - TOP) / SPAN], axis=1) * (TEXTURE - 1)
    return positions.astype(np.float32)
