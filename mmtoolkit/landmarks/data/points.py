"""The 106 points: names, parts, mirror table, and conversion to and from five other schemes.

Everything inside the engine is in the order of the JD-landmark data set (here `jd106`): left is the
image's left, indices run from 0, coordinates are pixels with the origin at the centre of the top left
pixel. Two other orders are also called "106", see :data:`SCHEMES`.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from mmtoolkit.core.config import did_you_mean
from mmtoolkit.core.errors import UsageError

Points = NDArray[np.float32]
Mask = NDArray[np.bool_]

COUNT = 106

PARTS: dict[str, list[int]] = {
    "contour": list(range(33)),
    "left_brow": list(range(33, 42)),
    "right_brow": list(range(42, 51)),
    "nose": list(range(51, 66)),
    "left_eye": list(range(66, 75)),
    "right_eye": list(range(75, 84)),
    "mouth": list(range(84, 104)),
    "pupils": [104, 105],
}
"""Every point belongs to one part; the eyes hold the eye centres 74 and 83."""


def _names() -> tuple[str, ...]:
    upper_left = ["outer", "upper_1", "upper_2", "upper_3", "inner_top"]
    lower_left = ["inner_bottom", "lower_3", "lower_2", "lower_1"]
    upper_right = ["inner_top", "upper_3", "upper_2", "upper_1", "outer"]
    lower_right = ["lower_1", "lower_2", "lower_3", "inner_bottom"]
    left_eye = ["outer", "upper_1", "upper_2", "upper_3", "inner", "lower_3", "lower_2", "lower_1", "centre"]
    right_eye = ["inner", "upper_3", "upper_2", "upper_1", "outer", "lower_1", "lower_2", "lower_3", "centre"]
    left_side = ["left_root", "left_wing_top", "left_wing"]
    right_side = ["right_wing", "right_wing_top", "right_root"]
    base = ["left_corner", "left_nostril", "base", "right_nostril", "right_corner"]
    upper_lip = [*(f"upper_left_{i}" for i in (1, 2)), "upper", *(f"upper_right_{i}" for i in (2, 1))]
    lower_lip = [*(f"lower_right_{i}" for i in (1, 2)), "lower", *(f"lower_left_{i}" for i in (2, 1))]
    inner = ["left", "upper_left", "upper", "upper_right", "right", "lower_right", "lower", "lower_left"]
    contour = [f"left_{i}" for i in range(16)] + ["chin"] + [f"right_{i}" for i in reversed(range(16))]
    groups = {
        "contour": contour,
        "left_brow": upper_left + lower_left,
        "right_brow": upper_right + lower_right,
        "nose": ["bridge_1", "bridge_2", "bridge_3", "tip", *left_side, *base, *right_side],
        "left_eye": left_eye,
        "right_eye": right_eye,
        "outer_lip": ["left", *upper_lip, "right", *lower_lip],
        "inner_lip": inner,
        "pupil": ["left", "right"],
    }
    return tuple(f"{group}_{name}" for group, names in groups.items() for name in names)


NAMES: tuple[str, ...] = _names()
"""A name for each point, such as `left_eye_outer`."""

FLIP: list[int] = [
    *range(32, -1, -1),
    *(46, 45, 44, 43, 42, 50, 49, 48, 47),
    *(37, 36, 35, 34, 33, 41, 40, 39, 38),
    *(51, 52, 53, 54),
    *range(65, 54, -1),
    *(79, 78, 77, 76, 75, 82, 81, 80, 83),
    *(70, 69, 68, 67, 66, 73, 72, 71, 74),
    *range(90, 83, -1),
    *range(95, 90, -1),
    *(100, 99, 98, 97, 96),
    *(103, 102, 101),
    *(105, 104),
]
"""Mirror table: after mirroring a picture, `new[i] = old[FLIP[i]]`."""

SUBSET_79: list[int] = [*range(56), 60, 65, *range(66, 84), 87, 104, 105]
"""The points that the third challenge (masked faces) scores."""

_INSIGHTFACE = [
    *(1, 9, 10, 11, 12, 13, 14, 15, 16, 2, 3, 4, 5, 6, 7, 8, 0, 24, 23, 22, 21, 20, 19, 18, 32, 31, 30),
    *(29, 28, 27, 26, 25, 17, 43, 48, 49, 51, 50, 46, 47, 45, 44, 102, 103, 104, 105, 101, 100, 99, 98),
    *(97, 72, 73, 74, 86, 75, 76, 77, 78, 79, 80, 85, 84, 83, 82, 81, 35, 41, 40, 42, 39, 37, 33, 36, 34),
    *(89, 95, 94, 96, 93, 91, 87, 90, 92, 52, 64, 63, 71, 67, 68, 61, 58, 59, 53, 56, 55, 65, 66, 62),
    *(70, 69, 57, 60, 54, 38, 88),
]
_SENSETIME = [
    *range(38),
    *(67, 66, 65, 64, 38, 39, 40, 41, 42, 71, 70, 69, 68, 43, 44, 45, 46, 78, 80, 82, 47, 48, 49, 50, 51),
    *(83, 81, 79, 52, 53, 72, 54, 55, 56, 73, 57, 74, 58, 59, 75, 60, 61, 62, 76, 63, 77),
    *range(84, 106),
]
_WFLW = [i for i in range(104) if i not in {55, 56, 57, 63, 64, 65, 74, 83}] + [104, 105]
_MEDIAPIPE = [
    *(127, 127, 234, 93, 93, 132, 132, 58, 138, 172, 136, 150, 149, 149, 176, 148, 152, 377, 400, 378, 395),
    *(394, 364, 367, 416, 435, 401, 401, 366, 447, 447, 264, 368, 70, 63, 105, 66, 107, 55, 222, 223, 53),
    *(336, 296, 296, 293, 276, 283, 443, 295, 285, 168, 197, 195, 4, 244, 198, 64, 75, 97, 2, 328, 289),
    *(278, 420, 464, 33, 160, 159, 157, 133, 153, 145, 163, 468, 362, 384, 386, 387, 263, 390, 374, 380),
    *(473, 61, 39, 37, 0, 267, 269, 291, 321, 405, 17, 84, 91, 184, 81, 13, 271, 308, 402, 14, 178, 468, 473),
]

_JAW = [1.2, 2.9, 4.8, 6.9, 8.8, 10.7, 12.6, 14.4, 16, 17.7, 19.5, 21.4, 23.3, 25.3, 27.2, 29.1, 31.1]
_IBUG_CURVES: list[list[float]] = [
    # made symmetric, as both sides of a face are labelled by the same rules
    [round((left + 32 - right) / 2, 3) for left, right in zip(_JAW, reversed(_JAW), strict=True)],
    [33, 34, 35, 36, 37],
    [42, 43, 44, 45, 46],
    [51, 52, 53, 54],
    [58, 59, 60, 61, 62],
    [66, 67.5, 68.5, 70, 71.5, 72.5],
    [75, 76.5, 77.5, 79, 80.5, 81.5],
    [84, 85, 86, 87, 88, 89, 90, 91, 92, 93, 94, 95],
    [96, 97.5, 98, 98.5, 100, 101.5, 102, 102.5],
]
"""For each iBUG-68 point, in order, its position along the JD points; 67.5 is midway from 67 to 68."""
IBUG_POSITIONS: list[float] = [position for curve in _IBUG_CURVES for position in curve]
_CLOSED = {66: 74, 75: 83, 84: 96, 96: 104}
"""First point of each closed curve, and the number at which it returns to that point."""

SCHEMES: dict[str, int] = {
    "jd106": 106,
    "insightface106": 106,
    "sensetime106": 106,
    "wflw98": 98,
    "ibug68": 68,
    "mediapipe478": 478,
}
"""Known schemes and their numbers of points."""


@dataclass(frozen=True)
class Conversion:
    """A linear map between two schemes.

    Attributes:
        matrix: `(targets, sources)`; rows of known points sum to 1, the others are zero.
        known: `(targets,)`, false where the target point has no twin among the sources.
    """

    matrix: NDArray[np.float64]
    known: Mask

    def __call__(self, points: Points, present: Mask | None = None) -> tuple[Points, Mask]:
        """Convert points.

        Args:
            points: `(..., sources, 2)`.
            present: `(..., sources)`; a target that needs an absent source is unknown too.

        Returns:
            `(..., targets, 2)` with zeros where unknown, and the mask `(..., targets)`.
        """
        if present is None:
            present = np.ones(points.shape[:-1], bool)
        needs = self.matrix != 0
        known = self.known & ~(~present[..., None, :] & needs).any(-1)
        clean = np.where(present[..., None], points, 0.0)
        found = np.where(known[..., None], self.matrix @ clean, 0.0)
        return found.astype(np.float32), known


@cache
def conversion(source: str, target: str) -> Conversion:
    """Return the map from one scheme to another, through `jd106`.

    Raises:
        UsageError: if there is no such scheme.
    """
    for name in (source, target):
        if name not in SCHEMES:
            known = ", ".join(SCHEMES)
            raise UsageError(f"no scheme '{name}' ({known}){did_you_mean(name, list(SCHEMES))}")
    if source == target:
        return _conversion(np.eye(SCHEMES[source]))
    if target == "jd106":
        return _to_jd(source)
    if source == "jd106":
        return _from_jd(target)
    first, second = _to_jd(source), _from_jd(target)
    lost = (second.matrix[:, ~first.known] != 0).any(1)
    matrix = second.matrix @ first.matrix
    matrix[lost] = 0
    return _conversion(matrix)


def _conversion(matrix: NDArray[np.float64]) -> Conversion:
    return Conversion(matrix, np.abs(matrix).sum(1) > 0)


def _gather(sources: list[int], width: int) -> NDArray[np.float64]:
    return np.eye(width)[sources]


def _to_jd(source: str) -> Conversion:
    if source == "wflw98":
        matrix = _gather(_WFLW, COUNT).T
        matrix[[74, 83]] = matrix[[104, 105]]  # real files put the eye centres on the pupils
        return _conversion(matrix)
    if source == "ibug68":
        return _conversion(_ibug_to_jd())
    table = {"insightface106": _INSIGHTFACE, "sensetime106": _SENSETIME, "mediapipe478": _MEDIAPIPE}
    return _conversion(_gather(table[source], SCHEMES[source]))


def _from_jd(target: str) -> Conversion:
    if target == "wflw98":
        return _conversion(_gather(_WFLW, COUNT))
    if target == "ibug68":
        return _conversion(_jd_to_ibug())
    matrix = _to_jd(target).matrix.T
    # several JD points may share a vertex: it takes their mean
    return _conversion(matrix / np.maximum(matrix.sum(1, keepdims=True), 1))


def _jd_to_ibug() -> NDArray[np.float64]:
    """Interpolate linearly between the two JD points around each position."""
    matrix = np.zeros((68, COUNT))
    for row, position in enumerate(IBUG_POSITIONS):
        low = int(position)
        share = position - low
        matrix[row, low] += 1 - share
        if share:
            start = max((s for s in _CLOSED if s <= low), default=0)
            high = start if low + 1 == _CLOSED.get(start) else low + 1
            matrix[row, high] += share
    return matrix


def _ibug_to_jd() -> NDArray[np.float64]:
    """Run a quadratic spline through each curve of iBUG points and read it at whole numbers.

    Points beyond the ends of their curve and points of parts that iBUG lacks stay unknown. Straight lines
    would cut the corners of the lids; a cubic spline overshoots at unevenly spaced positions (inner lip).
    """
    from scipy.interpolate import make_interp_spline

    matrix = np.zeros((COUNT, 68))
    first = 0
    for positions in _IBUG_CURVES:
        knots, columns = list(positions), list(range(first, first + len(positions)))
        first += len(positions)
        for arc in _arcs(knots, columns):
            spline = make_interp_spline(arc[0], np.eye(68)[arc[1]], k=2)
            whole = np.arange(np.ceil(arc[0][0]), np.floor(arc[0][-1]) + 1).astype(int)
            first_of_next = {end: start for start, end in _CLOSED.items() if start == positions[0]}
            matrix[[first_of_next.get(i, i) for i in whole]] = spline(whole)
    matrix[np.abs(matrix) < 1e-12] = 0
    return matrix


def _arcs(knots: list[float], columns: list[int]) -> list[tuple[list[float], list[int]]]:
    """Cut a closed curve at its corners, where it is not smooth; an open curve stays whole."""
    start = int(knots[0])
    if start not in _CLOSED:
        return [(knots, columns)]
    corner = {66: 70, 75: 79, 84: 90, 96: 100}[start]
    cut = knots.index(corner)
    lower = ([*knots[cut:], _CLOSED[start]], [*columns[cut:], columns[0]])
    return [(knots[: cut + 1], columns[: cut + 1]), lower]
