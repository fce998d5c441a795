"""The function behind `mmtk landmarks points`: a plot of the numbered points on a rendered face."""

from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from mmtoolkit.core.errors import UsageError
from mmtoolkit.core.plots import STYLE
from mmtoolkit.landmarks.data.points import PARTS, Points
from mmtoolkit.landmarks.data.synthetic import render_faces
from mmtoolkit.landmarks.report import COLOURS

SIZE = 720
SEED = 145
"""A frontal face with open eyes and mouth, so that few points coincide."""


def draw_numbered_points(output: Path) -> None:
    """Write a PNG of the 106 points with their numbers.

    Raises:
        UsageError: if the file exists or does not end in .png.
    """
    if output.suffix != ".png" or output.exists() or not output.parent.is_dir():
        raise UsageError(f"`output` {output}: name a new .png file in a folder that exists")
    face = next(render_faces(1, SIZE, SEED))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11, 11), layout="constrained")
        axes = figure.subplots()
        grey = face.image.mean(-1) * 0.35 + 150
        axes.imshow(np.clip(grey, 0, 255), cmap="gray", vmin=0, vmax=255)
        for name, indices in PARTS.items():
            colour = [v / 255 * 0.75 for v in COLOURS[name]]
            part = face.points[indices]
            axes.scatter(part[:, 0], part[:, 1], s=14, color=colour, label=name.replace("_", " "))
        for label, (x, y) in _labels(face.points):
            axes.annotate(label, (x, y), (2, 3), textcoords="offset points", fontsize=7)
        low, high = face.points.min(0), face.points.max(0)
        margin = 0.06 * (high - low).max()
        axes.set(xlim=(low[0] - margin, high[0] + margin), ylim=(high[1] + margin, low[1] - margin))
        axes.set_axis_off()
        axes.legend(frameon=False, loc="lower left", fontsize=9)
        figure.savefig(output)


def _labels(points: Points) -> list[tuple[str, Points]]:
    """Return the labels and where to write them; points that coincide share one."""
    near = 0.008 * float(np.ptp(points, axis=0).max())
    labels: list[tuple[str, Points]] = []
    for index, point in enumerate(points):
        for number, (label, position) in enumerate(labels):
            if np.linalg.norm(point - position) < near:
                labels[number] = (f"{label}, {index}", position)
                break
        else:
            labels.append((str(index), point))
    return labels
