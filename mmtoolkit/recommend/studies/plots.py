"""Tables and plots of comparisons and studies."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from mmtoolkit.core.plots import STYLE
from mmtoolkit.core.report import markdown_table
from mmtoolkit.core.run import write_atomic
from mmtoolkit.recommend.compare import Comparison

Points = Sequence[tuple[float, float, float]]
"""x, y and the standard deviation."""


def comparison_table(
    comparison: Comparison,
    bold: Callable[[str], str] = str,
    escape: Callable[[str], str] = str,
    reference: str = "",
) -> tuple[list[str], list[list[str]]]:
    """Arrange a comparison as a table: a row per group, the best value of each metric in bold.

    Args:
        comparison: from :func:`mmtoolkit.recommend.compare.compare`.
        bold: makes a cell bold.
        escape: escapes a label for the output format.
        reference: label of the group that the others are compared with; default: the best group.
    """
    first = comparison.metrics[0]
    reference = reference or comparison.groups[0].label
    against = {
        p.worse: (-p.difference, p.p_value)
        for p in comparison.pairs
        if (p.metric, p.better) == (first, reference)
    }
    against |= {
        p.better: (p.difference, p.p_value)
        for p in comparison.pairs
        if (p.metric, p.worse) == (first, reference)
    }
    largest = {m: max(g.mean[m] for g in comparison.groups) for m in comparison.metrics}
    rows = []
    for group in comparison.groups:
        cells = {m: with_deviation(group.mean[m], group.deviation[m]) for m in comparison.metrics}
        marked = [bold(text) if group.mean[m] == largest[m] else text for m, text in cells.items()]
        difference, p_value = against.get(group.label, (0.0, 1.0))
        difference_cells = [f"{difference:+.4f}", f"{p_value:.4f}"] if group.label in against else ["", ""]
        rows.append([escape(group.label), str(len(group.runs)), *marked, *difference_cells])
    name = "to best" if reference == comparison.groups[0].label else f"to {escape(reference)}"
    return ["model", "runs", *comparison.metrics, name, "p"], rows


def with_deviation(mean: float, deviation: float | None) -> str:
    """Write `mean ± deviation`, or only the mean for a single run."""
    return f"{mean:.4f}" + ("" if deviation is None else f" ± {deviation:.4f}")


def write_comparison(comparison: Comparison, folder: Path, reference: str = "") -> list[Path]:
    """Write comparison.json, comparison.md and comparison.png."""
    columns, rows = comparison_table(comparison, lambda cell: f"**{cell}**", reference=reference)
    notes = (
        f"\n{comparison.users:,} users of the {comparison.split} split; mean ± standard deviation over runs; "
        f"differences and p: {comparison.metrics[0]}, two-sided paired bootstrap over users.\n"
    )
    files = [folder / f"comparison.{kind}" for kind in ("json", "md", "png")]
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(files[0], json.dumps(comparison.as_json(), indent=2) + "\n")
    write_atomic(files[1], markdown_table(columns, rows) + notes)
    plot_comparison(comparison, files[2])
    return files


def plot_comparison(comparison: Comparison, path: Path) -> None:
    """Draw each group's mean and 95 % interval over users, a panel per metric."""
    groups, metrics = comparison.groups[::-1], comparison.metrics
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(2 + 2.4 * len(metrics), 1.4 + 0.34 * len(groups)), layout="constrained")
        panels = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
        for axes, metric in zip(panels, metrics, strict=True):
            middle = [g.mean[metric] for g in groups]
            ends = [g.interval[metric] for g in groups]
            low = [max(0, m - e[0]) for m, e in zip(middle, ends, strict=True)]
            high = [max(0, e[1] - m) for m, e in zip(middle, ends, strict=True)]
            colours = ["tab:blue" if m == max(middle) else "grey" for m in middle]
            rows = range(len(groups))
            axes.hlines(
                rows,
                [m - x for m, x in zip(middle, low, strict=True)],
                [m + x for m, x in zip(middle, high, strict=True)],
                colors=colours,
                linewidth=2,
            )
            axes.scatter(middle, rows, c=colours, zorder=3)
            axes.set(title=metric, ylim=(-0.6, len(groups) - 0.4))
            axes.tick_params(axis="x", rotation=45)
        panels[0].set_yticks(range(len(groups)), [_wrap(g.label) for g in groups])
        figure.supxlabel(f"{comparison.split}, mean and 95 % interval over users", fontsize=9)
        figure.savefig(path)


def _wrap(label: str) -> str:
    """Insert a line break before the settings of a long label."""
    return label.replace(" (", "\n(", 1) if len(label) > 24 else label


def plot_lines(
    curves: Mapping[str, Points],
    path: Path,
    *,
    x: str,
    y: str,
    title: str,
    logarithmic: bool = False,
    levels: Mapping[str, tuple[float, float]] | None = None,
) -> None:
    """Draw curves with error bars, and constants as bands.

    Args:
        curves: points by the name of the curve.
        path: PNG to write.
        x: label of the horizontal axis.
        y: label of the vertical axis.
        title: heading.
        logarithmic: whether both axes are logarithmic.
        levels: mean and deviation of values that do not depend on x.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 3.6), layout="constrained")
        axes = figure.subplots()
        for name, points in curves.items():
            xs, ys, errors = zip(*points, strict=True)
            axes.errorbar(xs, ys, yerr=errors, label=name, marker="o", capsize=3)
        for name, (mean, deviation) in (levels or {}).items():
            axes.axhline(mean, linestyle="--", color="grey", label=name)
            axes.axhspan(mean - deviation, mean + deviation, color="grey", alpha=0.15)
        axes.set(xlabel=x, ylabel=y, title=title)
        if logarithmic:
            axes.set(xscale="log", yscale="log")
        axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
