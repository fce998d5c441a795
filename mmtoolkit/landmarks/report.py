"""Results and reports: curves, cumulative errors, overlays, the worst faces."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from mmtoolkit.core import report
from mmtoolkit.core.plots import STYLE
from mmtoolkit.core.run import RunDirectory
from mmtoolkit.landmarks.data.face import Image
from mmtoolkit.landmarks.data.images import crop_squares, square_boxes, to_square
from mmtoolkit.landmarks.data.points import PARTS, Points
from mmtoolkit.landmarks.data.read import Annotation
from mmtoolkit.landmarks.evaluation.metrics import ALPHA, Evaluation, Values

COLOURS = {
    "contour": (80, 200, 255),
    "left_brow": (255, 170, 60),
    "right_brow": (255, 170, 60),
    "nose": (180, 255, 90),
    "left_eye": (255, 90, 200),
    "right_eye": (255, 90, 200),
    "mouth": (255, 90, 90),
    "pupils": (255, 255, 255),
}
"""Colour of each part in overlays, RGB."""

Table = tuple[list[str], list[list[str]]]
"""Column names and rows."""


@dataclass(frozen=True)
class TrainResult:
    """The result of a finished run.

    Attributes:
        epochs: epochs trained.
        best_epoch: the one with the lowest validation NME, whose weights are kept as `best`.
        metrics: its `nme`, `auc`, `failure_rate` on the validation faces.
        faces_per_second: training speed, augmentation included.
    """

    epochs: int
    best_epoch: int
    metrics: dict[str, float]
    faces_per_second: float


@dataclass(frozen=True)
class DetectorResult:
    """A detector that was trained.

    Attributes:
        path: file of the weights.
        faces: faces it was trained on, rendered ones included.
        scenes: pictures without faces.
        loss: mean training loss over the last 250 steps.
    """

    path: Path
    faces: int
    scenes: int
    loss: float


def percent(value: float) -> str:
    """Write a fraction as a percentage with two digits."""
    return f"{100 * value:.2f} %"


def metric_table(evaluation: Evaluation) -> Table:
    """Arrange the metrics of all faces and of each group as rows of a table."""
    columns = ["group", "faces", "missing", "NME", "AUC", "failures"]
    rows = []
    for name, figures in {"all": evaluation.metrics, **evaluation.groups}.items():
        counts = [str(int(figures["faces"])), str(int(figures["missing"]))]
        rows.append([name, *counts, *(percent(figures[key]) for key in ("nme", "auc", "failure_rate"))])
    return columns, rows


def part_table(evaluation: Evaluation) -> Table:
    """Arrange the mean NME of each part as rows of a table."""
    return ["part", "NME"], [[name, percent(value)] for name, value in evaluation.parts.items()]


def plot_ced(errors: Mapping[str, Values], path: Path, alpha: float = ALPHA) -> Path:
    """Draw the cumulative error distribution of one or more methods.

    Args:
        errors: by method, NME of each face, NaN for faces without prediction.
        path: PNG to write.
        alpha: right end of the axis.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.6, 3.6), layout="constrained")
        axes = figure.subplots()
        for name, values in errors.items():
            found = np.sort(values[~np.isnan(values) & (values < alpha)])
            shares = np.arange(len(found) + 1) / len(values)
            steps = np.concatenate([[0], found, [alpha]])
            axes.step(steps, np.append(shares, shares[-1]), where="post", label=name)
        axes.set(
            xlim=(0, alpha), ylim=(0, 1), xlabel="NME", ylabel="share of faces", title="Cumulative error"
        )
        axes.legend(frameon=False, loc="lower right")
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
    return path


def draw_points(image: Image, points: Points, radius: int | None = None) -> Image:
    """Draw JD points `(106, 2)` on a copy of a picture, each part in its colour."""
    drawn = image.copy()
    if radius is None:
        radius = max(1, round(float(np.ptp(points, axis=0).max()) / 160))
    for name, indices in PARTS.items():
        for x, y in points[indices]:
            if np.isfinite(x) and np.isfinite(y):
                centre = (round(float(x) * 16), round(float(y) * 16))
                cv2.circle(drawn, centre, radius * 16, COLOURS[name], -1, cv2.LINE_AA, 4)
    return drawn


def draw_worst(
    truths: Sequence[Annotation], predictions: Mapping[str, Points], evaluation: Evaluation, count: int = 16
) -> Image:
    """Draw the faces with the largest errors as one image: truth left, prediction right.

    Args:
        truths: labelled faces, whose pictures are read.
        predictions: `(106, 2)` by name.
        evaluation: their scores.
        count: number of faces.

    Returns:
        `(height, width, 3)` RGB.
    """
    size = 192
    ranked = np.argsort(-np.nan_to_num(evaluation.errors, nan=np.inf))[:count]
    tiles = []
    for number in ranked.tolist():
        truth = truths[number]
        predicted = predictions.get(truth.name)
        square = square_boxes(truth.box[None], 1.1)
        crop = crop_squares(truth.face().image, square, size)[0]
        points, weights = truth.jd
        true = np.where(weights[:, None] > 0, to_square(points[None], square)[0] * size - 0.5, np.nan)
        sides = [draw_points(crop, true, 1), crop]
        if predicted is not None:
            sides[1] = draw_points(crop, to_square(predicted[None], square)[0] * size - 0.5, 1)
        tile = np.hstack(sides)
        error = evaluation.errors[number]
        label = f"{truth.name[:30]} " + ("missing" if np.isnan(error) else f"{100 * error:.2f}%")
        cv2.putText(tile, label, (4, 12), cv2.FONT_HERSHEY_SIMPLEX, 0.38, (255, 255, 0), 1, cv2.LINE_AA)
        tiles.append(tile)
    while len(tiles) % 4:
        tiles.append(np.zeros_like(tiles[0]))
    return np.vstack([np.hstack(tiles[row : row + 4]) for row in range(0, len(tiles), 4)])


def write_run_report(run: RunDirectory, evaluation: Evaluation, about: str, best_epoch: int) -> None:
    """Draw plots/*.png from metrics.jsonl and write report.html."""
    records = run.read_metrics()
    curves = {"nme": ["nme"], "auc": ["auc", "failure_rate"], "loss": ["loss"], "rate": ["learning_rate"]}
    plots = report.draw_curves(run, curves, x="epoch", mark=best_epoch)
    plots.append(plot_ced({"validation": evaluation.errors}, run.path / "plots" / "ced.png"))
    facts = {
        "data": about,
        "epochs": f"{records[-1]['epoch']}, best {best_epoch}",
        "seconds per epoch": f"{sum(r['seconds'] for r in records) / len(records):.1f}",
        "faces per second": f"{records[-1]['faces_per_second']:.0f}",
        "peak memory": f"{max(r['peak_memory'] for r in records) / 2**30:.2f} GiB",
    }
    tables = {"Validation": metric_table(evaluation), "By part": part_table(evaluation)}
    report.write_run_report(run, "landmarks", facts, tables, plots)
