"""The challenge's protocol (arXiv 1905.03469): NME, AUC, failure rate, in the whole and by group.

The NME of a face is its mean point distance over sqrt(w h) of the box around its true points. A face
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
from mmtoolkit.landmarks.data.read import Annotation, open_place, walk
from mmtoolkit.landmarks.data.text import read_points_txt

ALPHA = 0.08
"""NME from which on a face counts as a failure."""

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Evaluation:
    """What a set of predictions scores.

    Attributes:
        metrics: `nme`, `auc`, `failure_rate`, `faces`, `missing`; fractions.
        groups: the same by group, such as `yaw 15-30` or `mouth open`.
        parts: mean NME of each facial part.
        offset: mean of prediction minus truth to the right and down, over the face's size; far from 0, one
            of the two lies off in a body.
        names: of the faces.
        errors: NME of each face, `(faces,)`; NaN where there is no prediction.
    """

    metrics: dict[str, float]
    groups: dict[str, dict[str, float]]
    parts: dict[str, float]
    offset: tuple[float, float]
    names: list[str]
    errors: Values = field(repr=False)


def point_errors(truth: Annotation, predicted: Points) -> Values:
    """Return the distance of each labelled point over the face's size, `(n,)`; see :func:`point_offsets`."""
    distances: Values = np.linalg.norm(point_offsets(truth, predicted), axis=1)
    return distances


def point_offsets(truth: Annotation, predicted: Points) -> Values:
    """Return prediction minus truth over the face's size, NaN where there is no label.

    Args:
        truth: a labelled face; in another scheme than JD the prediction goes through its map.
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
    """Turn the NME of each face, NaN where there is no prediction, into the protocol's figures.

    AUC is the area under the share of faces with an NME below x, for x up to alpha, over alpha. That is
    1 - mean(min(NME, alpha)) / alpha, exactly.
    """
    there = errors[~np.isnan(errors)]
    full = np.where(np.isnan(errors), np.inf, errors)
    return {
        "nme": float(there.mean()) if len(there) else float("nan"),
        "auc": max(0.0, float(1 - np.minimum(full, alpha).mean() / alpha)),
        "failure_rate": float((full >= alpha).mean()),
        "faces": len(errors),
        "missing": len(errors) - len(there),
    }


def evaluate(
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
        subset_79: score only the points that the third challenge scores.

    Raises:
        DataError: if no face has a prediction, or a truth is not in JD order but 79 points are asked.
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
    there = [point_offsets(truth, predictions[truth.name]) for truth in truths if truth.name in predictions]
    right, down = np.nanmean(np.concatenate(there), axis=0)
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
    """Tell the groups of a face by pose and expression, from its data set or from its true points."""
    points, weights = truth.jd
    yaw = head_pose(points, weights)[0] if truth.yaw is None else truth.yaw
    low = min(int(abs(yaw) // 15) * 15, 60)
    labels = [f"yaw {low}-{low + 15}" if low < 60 else "yaw 60-90"]
    if truth.expression:
        return [*labels, truth.expression]
    return [*labels, *_expressions(points, weights)]


def _expressions(points: Points, weights: Points) -> list[str]:
    """Read open mouth and closed eyes off the points."""

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
    root = open_place(path)
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


@dataclass(frozen=True)
class Comparison:
    """The difference of two methods on the same faces: the second minus the first.

    Attributes:
        metric: `nme` or `auc`.
        first: its value for the first method; likewise `second`.
        low: lower end of the 95 % bootstrap interval of the difference; `high` is the upper end.
        p: two-sided share of resamples on the other side of zero.
    """

    metric: str
    first: float
    second: float
    low: float
    high: float
    p: float


def compare(
    first: Values, second: Values, *, alpha: float = ALPHA, resamples: int = 10_000, seed: int = 0
) -> list[Comparison]:
    """Compare two methods by a paired bootstrap over faces.

    Args:
        first: NME of each face, `(faces,)`, NaN where there is no prediction.
        second: likewise, in the same order.
        alpha: NME of a failure.
        resamples: how often the faces are drawn anew, with replacement.
        seed: of the draws.
    """
    both = ~(np.isnan(first) | np.isnan(second))
    measures: dict[str, tuple[Values, Values]] = {"nme": (first[both], second[both])}
    filled = [1 - np.minimum(np.nan_to_num(e, nan=np.inf), alpha) / alpha for e in (first, second)]
    measures["auc"] = (filled[0], filled[1])
    return [_bootstrap(name, *values, resamples, seed) for name, values in measures.items() if len(values[0])]


def _bootstrap(metric: str, first: Values, second: Values, resamples: int, seed: int) -> Comparison:
    rng = np.random.default_rng(seed)
    difference = second - first
    n = len(difference)
    block = max(1, 5_000_000 // n)
    draws = [
        difference[rng.integers(n, size=(min(block, resamples - start), n))].mean(1)
        for start in range(0, resamples, block)
    ]
    means = np.concatenate(draws)
    low, high = np.quantile(means, [0.025, 0.975])
    p = 2 * min((means <= 0).mean(), (means >= 0).mean())
    return Comparison(
        metric, float(first.mean()), float(second.mean()), float(low), float(high), float(min(1.0, p))
    )
