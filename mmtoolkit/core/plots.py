"""Curves as PNG."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib.figure import Figure

STYLE: dict[Any, Any] = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "font.size": 10,
    "figure.dpi": 110,
}


def plot_curves(
    records: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    path: Path,
    *,
    x: str,
    title: str,
    mark: float | None = None,
) -> Path | None:
    """Draw some columns of metrics.jsonl against ``x``.

    Args:
        records: the lines of metrics.jsonl; one without a name leaves a gap.
        names: columns to draw; those that no record has are left out.
        path: PNG to write.
        x: column of the horizontal axis.
        title: heading of the plot.
        mark: a value on the horizontal axis to mark, as the best epoch.

    Returns:
        ``path``, or None if there was nothing to draw.
    """
    names = [name for name in names if any(name in record for record in records)]
    if not names:
        return None
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 3.4), layout="constrained")
        axes = figure.subplots()
        for name in names:
            points = [(record[x], record[name]) for record in records if name in record]
            axes.plot(*zip(*points, strict=True), label=name, marker="." if len(points) < 40 else "")
        if mark is not None:
            axes.axvline(mark, color="grey", linestyle=":", label=f"best ({x} {mark:g})")
        axes.set(xlabel=x, title=title)
        axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
    return path
