"""Fit the ICT head to 68 human points on a photograph."""

from dataclasses import dataclass

import numpy as np

from mmtoolkit.landmarks.completion.ict import POSITIONS, IctModel
from mmtoolkit.landmarks.rendering.render import Array, outermost_positions, rotation_matrix

_ROUNDS = 12
_IDENTITIES = 50  # of 100: 68 points do not determine the finer ones
_WEIGHTS = np.concatenate(
    [np.full(17, 0.5), np.full(10, 0.7), np.ones(41)]
)  # jaw and brows are labelled less precisely
_NOISE = 0.19  # deviation of the human points in centimetres: about 1.2 % of a face
_EXPRESSION_PRIOR = 6.0  # inverse variance of an expression's coefficient; an identity's is 1
DISTANCES = (np.inf, 120.0, 60.0, 40.0)
"""Camera distances to try, in centimetres; infinity is the weak perspective."""


@dataclass(frozen=True)
class Fit:
    """A head that was fitted to a photograph.

    Attributes:
        coefficients: `(identities + expressions,)` of the model.
        rotation: `(3, 3)` of the head.
        scale: pixels per centimetre at the head's origin.
        shift: `(2,)` pixel of that origin.
        distance: distance of the camera in centimetres.
        error: weighted root mean square distance to the human points, in pixels.
    """

    coefficients: Array
    rotation: Array
    scale: float
    shift: Array
    distance: float
    error: float

    def project(self, positions: Array) -> Array:
        """Return pixels and depth in pixels `(..., 3)`, nearer is larger, of model positions `(..., 3)`."""
        turned = positions @ self.rotation.T
        pixels = turned[..., :2] * self._closeness(turned) + self.shift
        return np.concatenate([pixels, turned[..., 2:] * self.scale], axis=-1).astype(np.float32)

    def _closeness(self, turned: Array) -> Array:
        """Return the pixels per centimetre `(..., 1)` at each depth."""
        return np.asarray(self.scale / (1 - turned[..., 2:] / self.distance), np.float32)

    @property
    def angles(self) -> tuple[float, float, float]:
        """Yaw, pitch and roll in degrees, in the sense of :func:`render.rotation_matrix`."""
        forward = self.rotation[:, 2]
        roll = np.degrees(np.arctan2(self.rotation[1, 0], self.rotation[0, 0]))
        unrolled = rotation_matrix(0.0, 0.0, -float(roll)) @ forward
        yaw = np.degrees(np.arctan2(unrolled[0], np.hypot(unrolled[1], unrolled[2])))
        pitch = np.degrees(np.arctan2(unrolled[1], unrolled[2]))
        return float(yaw), float(pitch), float(roll)


def fit_head(model: IctModel, points: Array, distances: tuple[float, ...] = DISTANCES) -> Fit:
    """Fit identity, expression, pose and camera to iBUG points `(68, 2)`.

    Pose and coefficients are solved alternately, each by least squares; the jaw's points may slide along the
    visible contour of the head. The camera distance with the least error wins.
    """
    best: Fit | None = None
    start: Fit | None = None
    for distance in distances:
        fit = _alternate(model, points, distance, start)
        start = start or fit
        if best is None or fit.error < best.error:
            best = fit
    assert best is not None
    return best


def _alternate(model: IctModel, points: Array, distance: float, start: Fit | None) -> Fit:
    """Fit for one camera distance, starting from the fit for another one if given."""
    if start is None:
        nothing = np.zeros(len(model.shapes), np.float32)
        start = Fit(nothing, np.eye(3, dtype=np.float32), 1.0, np.zeros(2, np.float32), distance, np.inf)
        inner = model.landmarks[17:]
        fit = _pose(start, model.neutral[inner], points[17:], _WEIGHTS[17:])
        rounds = _ROUNDS
    else:
        fit = Fit(start.coefficients, start.rotation, start.scale, start.shift, distance, np.inf)
        rounds = _ROUNDS // 2
    basis_inner = model.shapes[:, model.landmarks[17:]]
    basis_contour = model.contour.of(model.shapes)
    for _ in range(rounds):
        neutral_contour = model.contour_positions(model.neutral, fit.rotation)
        mean, basis = _match_jaw(fit, neutral_contour, basis_contour, points[:17])
        mean = np.concatenate([mean, model.neutral[model.landmarks[17:]]])
        basis = np.concatenate([basis, basis_inner], axis=1)
        positions = mean + np.tensordot(fit.coefficients, basis, axes=1)
        fit = _pose(fit, positions, points, _WEIGHTS)
        fit = _shape(fit, mean, basis, points, model.identities)
    return fit


def _match_jaw(fit: Fit, neutral: Array, basis: Array, jaw: Array) -> tuple[Array, Array]:
    """Find the nearest position on the visible contour for each jaw point.

    Returns:
        The position on the neutral head `(17, 3)` and on each shape `(shapes, 17, 3)`.
    """
    strips = fit.project(neutral + np.tensordot(fit.coefficients, basis, axes=1))[:, :2]
    chosen = np.arange(33) * POSITIONS + outermost_positions(strips.reshape(33, POSITIONS, 2))
    line = strips[chosen]
    start, step = line[:-1], np.diff(line, axis=0)
    share = np.einsum("jsc,sc->js", jaw[:, None] - start, step) / (step**2).sum(1).clip(1e-9)
    share = np.clip(share, 0, 1)
    away = np.linalg.norm(start + share[..., None] * step - jaw[:, None], axis=2)
    segment = away.argmin(axis=1)
    part = share[np.arange(17), segment][:, None].astype(np.float32)
    low, high = chosen[segment], chosen[segment + 1]
    return (
        neutral[low] * (1 - part) + neutral[high] * part,
        basis[:, low] * (1 - part) + basis[:, high] * part,
    )


def _pose(fit: Fit, positions: Array, points: Array, weights: Array) -> Fit:
    """Solve rotation, scale and shift: an affine camera by least squares, then the nearest rotation."""
    for _ in range(3):  # the perspective depends on the rotation and is undone with the last one
        closeness = fit._closeness(positions @ fit.rotation.T) / fit.scale
        target = (points - fit.shift) / closeness + fit.shift
        root = np.sqrt(weights)[:, None]
        system = np.concatenate([positions, np.ones((len(positions), 1))], axis=1) * root
        affine = np.linalg.lstsq(system, target * root, rcond=None)[0]
        rows = affine[:3].T
        left, values, right = np.linalg.svd(rows, full_matrices=False)
        first = left @ right
        rotation = np.stack([first[0], first[1], np.cross(first[0], first[1])])
        fit = Fit(
            fit.coefficients,
            rotation.astype(np.float32),
            float(values.mean()),
            affine[3].astype(np.float32),
            fit.distance,
            fit.error,
        )
    return fit


def _shape(fit: Fit, mean: Array, basis: Array, points: Array, identities: int) -> Fit:
    """Solve the coefficients by ridge regression; expressions stay in [0, 1]."""
    turned = (mean + np.tensordot(fit.coefficients, basis, axes=1)) @ fit.rotation.T
    closeness = fit._closeness(turned)
    root = np.sqrt(_WEIGHTS)[:, None]
    view = fit.rotation[:2]
    rest = (points - fit.shift - mean @ view.T * closeness) * root
    columns = (basis @ view.T * closeness * root).reshape(len(basis), -1)
    used = np.ones(len(basis), bool)
    used[_IDENTITIES:identities] = False
    # ridge = noise variance / prior variance of each coefficient (maximum a posteriori)
    prior = np.where(np.arange(len(basis)) < identities, 1.0, _EXPRESSION_PRIOR) * (_NOISE * fit.scale) ** 2
    found = np.zeros(len(basis))
    for _ in range(4):  # expressions beyond their range are fixed at its end, the rest is solved again
        held = rest.ravel() - found[~used] @ columns[~used]
        inner = columns[used]
        found[used] = np.linalg.solve(inner @ inner.T + np.diag(prior[used]), inner @ held)
        found[:identities] = np.clip(found[:identities], -3, 3)
        beyond = (found < 0) | (found > 1)
        beyond[:identities] = False
        if not (beyond & used).any():
            break
        used &= ~beyond
        found = np.where(beyond, np.clip(found, 0, 1), found)
    left = rest.ravel() - found @ columns
    error = float(np.sqrt((left**2).sum() / _WEIGHTS.sum()))
    return Fit(found.astype(np.float32), fit.rotation, fit.scale, fit.shift, fit.distance, error)
