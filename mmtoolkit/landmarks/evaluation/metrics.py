"""The challenge's protocol (arXiv 1905.03469): NME, AUC and failure rate, for all faces and by group.

The NME of a face is its mean point distance divided by sqrt(w h) of the box around its true points. A face
without prediction counts as a failure in AUC and failure rate and is left out of the mean NME.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mmtoolkit.core.errors import DataError
from mmtoolkit.landmarks.data.face import enclosing_box
from mmtoolkit.landmarks.data.points import PARTS, SUBSET_79, Points, conversion
from mmtoolkit.landmarks.data.pose import head_pose
from mmtoolkit.landmarks.data.read import Annotation, open_folder, walk
from mmtoolkit.landmarks.data.text import read_points_txt

ALPHA = 0.08
"""Faces with an NME of at least this count as failures."""

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Evaluation:
    """The scores of a set of predictions.

    Attributes:
        metrics: `nme`, `auc`, `failure_rate`, `faces`, `missing`; fractions.
        groups: the same by group, such as `yaw 15-30` or `mouth open`.
        parts: mean NME of each facial part.
        offset: mean of prediction minus truth to the right and down, divided by the size of the face. A
            value far from 0 means that all labels or all predictions are shifted.
        names: names of the faces.
        errors: NME of each face, `(faces,)`; NaN where there is no prediction.
    """

    metrics: dict[str, float]
    groups: dict[str, dict[str, float]]
    parts: dict[str, float]
    offset: tuple[float, float]
    names: list[str]
    errors: Values = field(repr=False)


def point_errors(truth: Annotation, predicted: Points) -> Values:
    """Return the distance of each labelled point, `(n,)`, divided by the face's size."""
    distances: Values = np.linalg.norm(point_offsets(truth, predicted), axis=1)
    return distances


def point_offsets(truth: Annotation, predicted: Points) -> Values:
    """Return prediction minus truth divided by the face's size, NaN for points without label.

    Args:
        truth: a labelled face; if its scheme is not JD, the prediction is converted to it.
        predicted: `(106, 2)` in JD order.

    Returns:
        `(n, 2)` for the n points of the truth's scheme.
    """
    width, height = size = np.ptp(enclosing_box(truth.points, truth.weights).reshape(2, 2), axis=0)
    if not size.all():
        raise DataError(f"{truth.name}: the labelled points have no extent")
    mapped, known = conversion("jd106", truth.scheme)(predicted)
    offsets = (mapped - truth.points).astype(np.float64) / np.sqrt(float(width) * float(height))
    counted = known & (truth.weights > 0)
    return np.where(counted[:, None], offsets, np.nan)


def summarise(errors: Values, alpha: float = ALPHA) -> dict[str, float]:
    """Compute the protocol's metrics from the NME of each face, NaN for faces without prediction.

    AUC is the area under the cumulative error curve up to alpha, divided by alpha. Integration by parts gives
    exactly 1 - mean(min(NME, alpha)) / alpha, so that no curve has to be sampled.
    """
    predicted = errors[~np.isnan(errors)]
    full = np.where(np.isnan(errors), np.inf, errors)
    return {
        "nme": float(predicted.mean()) if len(predicted) else float("nan"),
        "auc": max(0.0, float(1 - np.minimum(full, alpha).mean() / alpha)),
        "failure_rate": float((full >= alpha).mean()),
        "faces": len(errors),
        "missing": len(errors) - len(predicted),
    }


def score_faces(
    truths: Sequence[Annotation],
    predictions: Mapping[str, Points],
    *,
    alpha: float = ALPHA,
    subset_79: bool = False,
) -> Evaluation:
    """Score predictions against labelled faces.

    Args:
        truths: from :func:`mmtoolkit.landmarks.data.read.read_annotations`.
        predictions: `(106, 2)` in JD order by the name of the picture.
        alpha: NME of a failure.
        subset_79: score only the 79 points of the third challenge.

    Raises:
        DataError: if no face has a prediction, or `subset_79` is set and a truth is not in JD order.
    """
    if not any(truth.name in predictions for truth in truths):
        raise DataError(f"no prediction for any of the {len(truths)} pictures; are they of this data set?")
    rows = []
    for truth in truths:
        predicted = predictions.get(truth.name)
        row = np.full(len(truth.points), np.nan) if predicted is None else point_errors(truth, predicted)
        rows.append(_subset(row, truth) if subset_79 else row)
    errors = np.array([np.nan if np.isnan(row).all() else np.nanmean(row) for row in rows])
    labels = [group_labels(truth) for truth in truths]
    names = sorted({label for of_face in labels for label in of_face})
    groups = {name: summarise(errors[[name in of_face for of_face in labels]], alpha) for name in names}
    parts = part_errors(truths, rows)
    offset = mean_offset(truths, predictions)
    return Evaluation(summarise(errors, alpha), groups, parts, offset, [t.name for t in truths], errors)


def mean_offset(truths: Sequence[Annotation], predictions: Mapping[str, Points]) -> tuple[float, float]:
    """Average prediction minus truth over all labelled points; see :class:`Evaluation`."""
    offsets = [point_offsets(truth, predictions[truth.name]) for truth in truths if truth.name in predictions]
    right, down = np.nanmean(np.concatenate(offsets), axis=0)
    return float(right), float(down)


def _subset(row: Values, truth: Annotation) -> Values:
    if truth.scheme != "jd106":
        raise DataError(f"{truth.name}: the 79 points are those of 106-point labels, not of {truth.scheme}")
    kept = np.full_like(row, np.nan)
    kept[SUBSET_79] = row[SUBSET_79]
    return kept


def part_errors(truths: Sequence[Annotation], rows: Sequence[Values]) -> dict[str, float]:
    """Average point errors `(n,)` of each face over each facial part."""
    found: dict[str, list[Values]] = {name: [] for name in PARTS}
    for truth, row in zip(truths, rows, strict=True):
        for name, indices in PARTS.items():
            # a point of another scheme belongs to the part of the JD points that it lies between
            belongs = conversion("jd106", truth.scheme).matrix[:, indices].sum(1) > 0.5
            found[name].append(row[belongs])
    joined = {name: np.concatenate(values) for name, values in found.items()}
    return {name: float(np.nanmean(v)) for name, v in joined.items() if not np.isnan(v).all()}


def group_labels(truth: Annotation) -> list[str]:
    """Return the groups of a face by pose and expression, from its data set or from its true points."""
    points, weights = truth.jd
    yaw = head_pose(points, weights)[0] if truth.yaw is None else truth.yaw
    low = min(int(abs(yaw) // 15) * 15, 60)
    labels = [f"yaw {low}-{low + 15}" if low < 60 else "yaw 60-90"]
    if truth.expression:
        return [*labels, truth.expression]
    return [*labels, *_expressions(points, weights)]


def _expressions(points: Points, weights: Points) -> list[str]:
    """Derive an open mouth and closed eyes from the points."""

    def gap(upper: int, lower: int, left: int, right: int) -> float:
        if not weights[[upper, lower, left, right]].all():
            return float("nan")
        height = float(np.linalg.norm(points[upper] - points[lower]))
        return height / max(1e-6, float(np.linalg.norm(points[left] - points[right])))

    mouth = gap(98, 102, 84, 90)
    eyes = max(gap(68, 72, 66, 70), gap(77, 81, 75, 79))
    found = ["mouth open"] * (mouth > 0.25) + ["eyes closed"] * (eyes < 0.12)
    return found or ["neutral"]


def read_predictions(path: Path) -> dict[str, Points]:
    """Read a folder or a zip of `<picture>.txt` files, as a submission holds them.

    Raises:
        DataError: if there is none, or one of them is malformed or named twice.
    """
    if not path.exists():
        raise DataError(f"{path}: no such folder or zip")
    root = open_folder(path)
    found: dict[str, Points] = {}
    for folder in (root, *walk(root)):
        for entry in folder.iterdir():
            if not entry.is_file() or not entry.name.endswith(".txt") or entry.name.startswith("."):
                continue
            name = entry.name.removesuffix(".txt")
            if name in found:
                raise DataError(f"holds two predictions for {name}", path=path)
            found[name] = read_points_txt(entry)
    if not found:
        raise DataError("holds no prediction (<picture>.txt)", path=path)
    return found
