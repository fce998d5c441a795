"""From 68 human points to all 106: twins keep the human label, a fitted head gives the others."""

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import RBFInterpolator

from mmtoolkit.landmarks.completion.fit import Fit, fit_head
from mmtoolkit.landmarks.completion.ict import POSITIONS, IctModel
from mmtoolkit.landmarks.data.face import Image
from mmtoolkit.landmarks.data.points import Conversion, conversion
from mmtoolkit.landmarks.rendering.render import Array, visible_contour

LIDS = {104: [66, 67, 68, 69, 70, 71, 72, 73], 105: [75, 76, 77, 78, 79, 80, 81, 82]}
CENTRES = {104: 74, 105: 83}
FROM_MESH, FROM_CONTOUR, FROM_IMAGE, UNSEEN = 0.6, 0.5, 0.8, 0.3
"""Confidence of points from the mesh, of the contour's ends, and of visible and hidden pupils."""


@dataclass(frozen=True)
class Completed:
    """All points of a face on a photograph.

    Attributes:
        points: `(106, 2)` pixels.
        depths: `(106,)` in pixels on the fitted head, nearer is larger.
        confidence: `(106,)` in [0, 1]; 1 if a human labelled the point or its neighbours.
        fit: the fitted head.
        warp: moves its projection onto the human points.
    """

    points: Array
    depths: Array
    confidence: Array
    fit: Fit
    warp: RBFInterpolator


def complete_points(model: IctModel, image: Image, human: Array) -> Completed:
    """Find all 106 points of a face of which 68 were labelled.

    Args:
        model: the 3-D head.
        image: `(height, width, 3)` RGB, in which the pupils are searched.
        human: `(68, 2)` iBUG points in pixels.
    """
    fit = fit_head(model, human)
    known = _twins()
    twins, mask = known(human)
    drawn, depths = np.split(project_points(model, fit), [2], axis=1)
    warp = fit_warp(drawn[mask], twins[mask], fit)
    points = warp(drawn).astype(np.float32)
    points[mask] = twins[mask]
    confidence = np.where(mask, 1.0, FROM_MESH).astype(np.float32)
    _end_contour(points, drawn, confidence, mask)
    for pupil in LIDS:
        points[pupil], confidence[pupil] = find_pupil(image, points[LIDS[pupil]])
        points[CENTRES[pupil]], confidence[CENTRES[pupil]] = points[pupil], confidence[pupil]
    return Completed(points, depths[:, 0], confidence, fit, warp)


@cache
def _twins() -> Conversion:
    return conversion("ibug68", "jd106")


def project_points(model: IctModel, fit: Fit) -> Array:
    """Return the head's own 106 points `(106, 3)` on the photograph, with depths.

    The contour is on the silhouette; its depth is that of the jaw line.
    """
    mesh = model.mesh(fit.coefficients)
    shown = fit.project(mesh)
    points = _twins().matrix @ shown[model.landmarks]
    strips = fit.project(model.contour_positions(mesh, fit.rotation)).reshape(33, POSITIONS, 3)
    points[:33] = np.concatenate([visible_contour(strips[..., :2]), strips[:, 0, 2:]], axis=1)
    for number, anchor in model.extra.items():
        points[number] = fit.project(anchor.of(mesh))[0]
    for number, iris in zip(LIDS, model.irises, strict=True):
        points[number] = points[CENTRES[number]] = shown[iris].mean(axis=0)
    return points.astype(np.float32)


def fit_warp(drawn: Array, labelled: Array, fit: Fit) -> RBFInterpolator:
    """Return a smooth warp (thin plate) that moves the drawn points onto the labelled ones."""
    smoothing = float((0.3 * fit.scale) ** 2)
    return RBFInterpolator(drawn, labelled, kernel="thin_plate_spline", smoothing=smoothing)


def _end_contour(
    points: Array,
    drawn: Array,
    confidence: Array,
    mask: NDArray[np.bool_],
) -> None:
    """Continue the human contour upwards in the direction of the fitted one, in the human steps."""
    for end, step in ((0, 1), (32, -1)):
        known = end
        while not mask[known]:
            known += step
        pace = float(np.linalg.norm(points[known + 4 * step] - points[known])) / 4
        for number in range(known - step, end - step, -step):
            along = drawn[number] - drawn[number + step]
            points[number] = points[number + step] + along * pace / max(float(np.linalg.norm(along)), 1e-6)
            confidence[number] = FROM_CONTOUR


def find_pupil(image: Image, lids: Array) -> tuple[Array, float]:
    """Find the dark disc between the lids.

    Args:
        image: `(height, width, 3)` RGB.
        lids: `(8, 2)` from one corner over the upper lid to the other and back.

    Returns:
        The pupil's position `(2,)` and its confidence: lids that nearly touch hide it.
    """
    corners, middle = lids[[0, 4]], lids[[2, 6]].mean(axis=0)
    width = float(np.linalg.norm(corners[1] - corners[0]))
    opening = float(np.linalg.norm(lids[2] - lids[6]))
    centre = 0.5 * (middle + corners.mean(axis=0)) if opening < 0.12 * width else middle
    if opening < 0.12 * width or width < 6:
        return centre.astype(np.float32), UNSEEN
    scale = 48 / width
    matrix = np.array([[scale, 0, 48 - scale * middle[0]], [0, scale, 32 - scale * middle[1]]])
    eye = cv2.warpAffine(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), matrix, (96, 64), flags=cv2.INTER_LINEAR)
    inside = np.zeros(eye.shape, np.uint8)
    ring = lids @ matrix[:, :2].T + matrix[:, 2]
    cv2.fillPoly(inside, [np.round(ring).astype(np.int32)], 1)
    levels = eye[inside > 0].astype(np.float32)
    if levels.size == 0 or np.ptp(levels) < 12:
        return middle.astype(np.float32), UNSEEN
    dark = np.clip((levels.mean() - eye.astype(np.float32)) / (levels.std() + 1), 0, 2) * inside
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (21, 21)).astype(np.float32)
    response = cv2.filter2D(dark, -1, disc / disc.sum(), borderType=cv2.BORDER_CONSTANT)
    ys, xs = np.mgrid[:64, :96].astype(np.float32)
    near_middle = np.exp(-(((xs - 48) / 8) ** 2) - ((ys - 32) / 3) ** 2)  # lashes are dark too
    weight = response**6 * near_middle
    at = np.array([(weight * xs).sum(), (weight * ys).sum()]) / weight.sum()
    return ((at - matrix[:, 2]) / scale).astype(np.float32), FROM_IMAGE
