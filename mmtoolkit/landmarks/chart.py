"""A picture of the numbered points, drawn on a rendered face."""

from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from mmtoolkit.core.errors import UsageError
from mmtoolkit.core.plots import STYLE
from mmtoolkit.landmarks.points import PARTS
from mmtoolkit.landmarks.report import COLOURS
from mmtoolkit.landmarks.synthetic import render_faces

SIZE = 720
CANDIDATES = 40


def draw_chart(path: Path) -> None:
    """Write a PNG of the 106 points with their numbers, on the most frontal of some rendered faces.

    Raises:
        UsageError: if the file is there already, or is not called .png.
    """
    if path.suffix != ".png" or path.exists() or not path.parent.is_dir():
        raise UsageError(f"--output {path}: name a new .png file in a folder that is there")
    small = list(render_faces(CANDIDATES, 96, seed=0))
    best = min(range(CANDIDATES), key=lambda i: _turn(small[i].yaw, small[i].pitch, small[i].roll))
    face = list(render_faces(best + 1, SIZE, seed=0))[best]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11, 11), layout="constrained")
        axes = figure.subplots()
        grey = face.image.mean(-1) * 0.35 + 150
        axes.imshow(np.clip(grey, 0, 255), cmap="gray", vmin=0, vmax=255)
        for name, indices in PARTS.items():
            colour = [v / 255 * 0.75 for v in COLOURS[name]]
            places = face.points[indices]
            axes.scatter(places[:, 0], places[:, 1], s=14, color=colour, label=name.replace("_", " "))
            for index, (x, y) in zip(indices, places, strict=True):
                axes.annotate(str(index), (x, y), (2, 3), textcoords="offset points", fontsize=7)
        low, high = face.points.min(0), face.points.max(0)
        margin = 0.06 * (high - low).max()
        axes.set(xlim=(low[0] - margin, high[0] + margin), ylim=(high[1] + margin, low[1] - margin))
        axes.set_axis_off()
        axes.legend(frameon=False, loc="upper left", fontsize=9)
        figure.savefig(path)


def _turn(*angles: float | None) -> float:
    return sum(abs(angle or 0.0) for angle in angles)
