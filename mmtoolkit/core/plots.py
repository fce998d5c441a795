"""Curves as PNG, tables as markdown, and the run's report as one HTML page that needs nothing beside it."""

import base64
import html
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
        title: heading of the picture.
        mark: a place on the horizontal axis to mark, as the best epoch.

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


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a table as markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def write_report(
    path: Path,
    title: str,
    facts: Mapping[str, str],
    tables: Mapping[str, tuple[Sequence[str], Sequence[Sequence[str]]]],
    plots: Sequence[Path],
    settings: str,
) -> Path:
    """Write report.html with its pictures inside.

    Args:
        path: page to write.
        title: heading.
        facts: short lines under the heading, by name.
        tables: by heading, the column names and the rows.
        plots: PNG files to show.
        settings: YAML shown at the end.
    """
    body = [f"<h1>{html.escape(title)}</h1>", _facts(facts)]
    for heading, (columns, rows) in tables.items():
        body.append(f"<h2>{html.escape(heading)}</h2>{_table(columns, rows)}")
    body += [_image(plot) for plot in plots]
    body.append(f"<h2>Settings</h2><pre>{html.escape(settings)}</pre>")
    page = _PAGE.format(title=html.escape(title), body="\n".join(body))
    path.write_text(page, encoding="utf-8")
    return path


def _facts(facts: Mapping[str, str]) -> str:
    items = (f"<dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd>" for k, v in facts.items())
    return f"<dl>{''.join(items)}</dl>"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(column)}</th>" for column in columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _image(plot: Path) -> str:
    data = base64.b64encode(plot.read_bytes()).decode("ascii")
    return f'<img alt="{html.escape(plot.stem)}" src="data:image/png;base64,{data}">'


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }}
h1 {{ font-size: 1.5rem }} h2 {{ font-size: 1.1rem; margin-top: 2rem }}
dl {{ display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem }}
dt {{ color: #666 }} dd {{ margin: 0 }}
table {{ border-collapse: collapse }}
th, td {{ padding: .2rem .9rem .2rem 0; text-align: right; border-bottom: 1px solid #ddd }}
th:first-child, td:first-child {{ text-align: left }}
pre {{ background: #f6f6f6; padding: 1rem; overflow-x: auto }}
img {{ max-width: 100%; display: block; margin: 1rem 0 }}
</style></head><body>
{body}
</body></html>
"""
