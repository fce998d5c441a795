"""ICT-FaceKit light: a 3-D head with identity and expression shapes, and the 106 points on it.

Li et al. 2020, "Learning Formation of Physically-Based Face Attributes", arXiv 2004.03458. The model (MIT) is
not part of this package; the user gives its path. Lengths are in centimetres; the axes are
those of :mod:`mmtoolkit.landmarks.rendering.render`.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mmtoolkit.core.arrays import read_npz
from mmtoolkit.core.errors import DataError
from mmtoolkit.landmarks.data.points import IBUG_POSITIONS
from mmtoolkit.landmarks.rendering.render import Array

_SHAPES = {"neutral": 2, "identity": 3, "expression": 3, "quads": 2, "material": 1, "landmarks68": 1}
SKIN = ("M_Face", "M_BackHead")
POSITIONS = 14

# Points that iBUG-68 lacks, on the left side seen from the front, in centimetres: x and y on the nose, and
# the offsets of the lower brow from the points 37, 36, 35, 34 of the upper brow, sideways and down.
_NOSE = {55: (-1.13, 3.12), 56: (-1.65, 0.45), 57: (-1.97, -0.98)}
_LOWER_BROW = {38: (21, -0.27, 0.71), 39: (20, -0.16, 0.74), 40: (19, -0.03, 0.80), 41: (18, 0.14, 0.65)}
# How far behind the model's jaw line annotators put each jaw point on the visible side of a turned head, in
# centimetres, measured on HELEN. On frontal heads the two coincide.
_BEHIND = (1.6, 1.9, 2.6, 3.0, 2.6, 1.5, 0.6, 0.0, 0.0)
_MIRROR = {55: 65, 56: 64, 57: 63, 38: 50, 39: 49, 40: 48, 41: 47}


@dataclass(frozen=True)
class Anchors:
    """Positions on a mesh, each a mixture of three vertices.

    Attributes:
        vertices: `(n, 3)` vertex numbers.
        shares: `(n, 3)`, each row sums to 1.
    """

    vertices: NDArray[np.int64]
    shares: Array

    def of(self, mesh: Array) -> Array:
        """Return the positions `(..., n, 3)` on a mesh or on each of its shapes `(..., vertices, 3)`."""
        positions: Array = np.einsum("...nkc,nk->...nc", mesh[..., self.vertices, :], self.shares)
        return positions


@dataclass(frozen=True)
class IctModel:
    """The head.

    Attributes:
        neutral: `(vertices, 3)`.
        shapes: `(identities + expressions, vertices, 3)` offsets for one unit of each coefficient.
        identities: number of the identity shapes; the expressions follow, in [0, 1].
        skin: `(triangles, 3)` of face and back of the head.
        landmarks: `(68,)` vertex numbers of the iBUG points.
        contour: `(33 * POSITIONS)` positions that the JD contour's points may take.
        extra: JD points that iBUG lacks, by number.
        irises: vertex numbers of the left and the right pupil in the image.
    """

    neutral: Array
    shapes: Array
    identities: int
    skin: NDArray[np.int32]
    landmarks: NDArray[np.int64]
    contour: Anchors
    extra: dict[int, Anchors]
    irises: tuple[NDArray[np.int64], NDArray[np.int64]]

    def mesh(self, coefficients: Array) -> Array:
        """Return the vertices `(vertices, 3)` of coefficients `(identities + expressions,)`."""
        mesh: Array = self.neutral + np.tensordot(coefficients, self.shapes, axes=1)
        return mesh

    def contour_positions(self, mesh: Array, rotation: Array) -> Array:
        """Return the positions `(33 * POSITIONS, 3)` that the contour's points may take on a turned mesh."""
        positions: Array = self.contour.of(mesh).reshape(33, POSITIONS, 3)
        positions[:, 0] += behind_jaw(rotation)
        return positions.reshape(-1, 3)


def load_ict(path: Path) -> IctModel:
    """Read the model from its `.npz` and find the positions of the JD points on it.

    Raises:
        DataError: if the file is missing or not this model.
    """
    if not path.exists():
        raise DataError("no such file", path=path)
    try:
        arrays = read_npz(path, (*_SHAPES, "material_names"))
    except ValueError:
        names = ", ".join(_SHAPES)
        raise DataError(f"not an ICT-FaceKit light model (.npz with {names})", path=path) from None
    for name, dimensions in _SHAPES.items():
        if arrays[name].ndim != dimensions:
            raise DataError(f"{name} should have {dimensions} dimensions", path=path)
    try:
        return _build(arrays)
    except (ValueError, IndexError) as error:
        raise DataError(f"not the head of ICT-FaceKit light: {error}", path=path) from None


def _build(arrays: dict[str, Array]) -> IctModel:
    """Build the model.

    Raises:
        ValueError: if the arrays do not match or lack a part.
        IndexError: if a vertex number is out of range.
    """
    down = np.array([1, -1, 1], np.float32)
    neutral = arrays["neutral"].astype(np.float32) * down
    if any(arrays[name].shape[1:] != neutral.shape for name in ("identity", "expression")):
        raise ValueError("its shapes have other vertices than the neutral head")
    names = arrays["material_names"].tolist()
    quads, material = arrays["quads"], arrays["material"]
    landmarks = arrays["landmarks68"].astype(np.int64)
    face = _triangles(quads[material == names.index("M_Face")])
    irises = [_front(neutral, quads[material == names.index(f"M_Iris{side}")]) for side in ("Right", "Left")]
    return IctModel(
        neutral,
        np.concatenate([arrays["identity"], arrays["expression"]]).astype(np.float32) * down,
        len(arrays["identity"]),
        _triangles(quads[np.isin(material, [names.index(name) for name in SKIN])]),
        landmarks,
        _contour_anchors(neutral, face, neutral[landmarks[:17]]),
        _extra_anchors(neutral, face, neutral[landmarks]),
        (irises[0], irises[1]),
    )


def _front(neutral: Array, quads: Array) -> Array:
    """Return the foremost vertices of a part, within 1 mm."""
    vertices = np.unique(quads[quads >= 0])
    depth = neutral[vertices, 2]
    front: Array = vertices[depth > depth.max() - 0.1]
    return front


def _triangles(quads: Array) -> NDArray[np.int32]:
    """Cut quads `(n, 4)` in two; a fourth vertex of -1 marks a triangle."""
    whole = quads[quads[:, 3] >= 0]
    return np.concatenate([quads[:, :3], whole[:, [0, 2, 3]]]).astype(np.int32)


def cast_rays(mesh: Array, triangles: NDArray[np.int32], origins: Array, directions: Array) -> Anchors:
    """Return the farthest hits of rays `(n, 3)` on a mesh (Moeller and Trumbore 1997).

    Raises:
        ValueError: if a ray misses it.
    """
    first = mesh[triangles[:, 0]]
    one, two = mesh[triangles[:, 1]] - first, mesh[triangles[:, 2]] - first
    vertices, shares = [], []
    for origin, direction in zip(origins, directions, strict=True):
        normal = np.cross(direction, two)
        area = np.einsum("ij,ij->i", one, normal)
        area[np.abs(area) < 1e-9] = np.inf
        start = origin - first
        u = np.einsum("ij,ij->i", start, normal) / area
        turned = np.cross(start, one)
        v = turned @ direction / area
        distance = np.einsum("ij,ij->i", turned, two) / area
        distance[(u < -1e-4) | (v < -1e-4) | (u + v > 1 + 1e-4) | (distance <= 0)] = -1
        hit = int(distance.argmax())
        if not distance[hit] > 0:
            raise ValueError("the positions of the 106 points miss its mesh")
        vertices.append(triangles[hit])
        shares.append([1 - u[hit] - v[hit], u[hit], v[hit]])
    return Anchors(np.array(vertices, np.int64), np.array(shares, np.float32))


def _contour_anchors(neutral: Array, face: NDArray[np.int32], jaw: Array) -> Anchors:
    """Return strips from 33 positions on the jaw line over the cheek, at constant height.

    At a turned pose, the visible contour runs over the cheek: one position of each strip is on it.
    """
    positions = np.array(IBUG_POSITIONS[:17])
    steps = np.interp(np.arange(33), positions, np.arange(17))
    line = np.stack([np.interp(steps, np.arange(17), jaw[:, axis]) for axis in range(3)], axis=1)
    for end, near, beyond in ((0, 1, positions[0]), (32, 15, 32 - positions[-1])):
        tip = 0 if end == 0 else 16
        line[end] = jaw[tip] + (jaw[tip] - jaw[near]) * beyond / abs(positions[near] - positions[tip])
        line[1 if end == 0 else 31] = jaw[tip] + (line[end] - jaw[tip]) * 0.2 / beyond
    axis = np.array([0, 0, 2.0])
    turn = np.arctan2(line[:, 0], line[:, 2] - axis[2])
    fan = turn[:, None] * np.linspace(1, 0.35, POSITIONS)
    origins = np.repeat(np.stack([0 * turn, line[:, 1], 0 * turn + axis[2]], axis=1), POSITIONS, axis=0)
    directions = np.stack([np.sin(fan), 0 * fan, np.cos(fan)], axis=-1).reshape(-1, 3)
    return cast_rays(neutral, face, origins.astype(np.float32), directions.astype(np.float32))


def behind_jaw(rotation: Array) -> Array:
    """Return the offsets `(33, 3)` of contour points from the jaw line, on the visible side of a turned head.

    Full offsets from a yaw of 30 degrees on, smaller ones below; in centimetres, in the head's own axes.
    """
    half = np.interp(np.arange(17), IBUG_POSITIONS[:9], _BEHIND)
    seen = np.clip(2 * float(rotation[0, 2]) * np.array([1, -1]), 0, 1)
    back = -np.concatenate([seen[0] * half, seen[1] * half[-2::-1]])
    return np.stack([0 * back, 0 * back, back], axis=1).astype(np.float32)


def _extra_anchors(neutral: Array, face: NDArray[np.int32], points: Array) -> dict[int, Anchors]:
    """Anchor lower brows, nose roots and wings on the left by the tables above, and mirror them."""
    left = {number: (x, -y) for number, (x, y) in _NOSE.items()}
    for number, (upper, beside, below) in _LOWER_BROW.items():
        left[number] = (points[upper, 0] + beside, points[upper, 1] + below)
    positions = left | {_MIRROR[number]: (-x, y) for number, (x, y) in left.items()}
    forward = np.array([[0, 0, 1]], np.float32)
    return {
        number: cast_rays(neutral, face, np.array([[x, y, 0]], np.float32), forward)
        for number, (x, y) in positions.items()
    }
