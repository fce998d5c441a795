"""What a run leaves for people: results.json, plots, tables, and report.html, which needs no other file."""

import base64
import html
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from mmtoolkit.core.device import describe_device
from mmtoolkit.core.plots import plot_curves
from mmtoolkit.core.run import RunDirectory


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a table as markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def write_results(run: RunDirectory, result: Any, device: torch.device) -> None:
    """Write results.json: the fields of a result and where it was computed."""
    run.write_results(asdict(result) | {"device": describe_device(device)})


def draw_curves(
    run: RunDirectory, curves: Mapping[str, Sequence[str]], *, x: str, mark: float | None = None
) -> list[Path]:
    """Draw columns of metrics.jsonl as plots/*.png.

    Args:
        run: whose metrics to draw.
        curves: by heading, the columns of one plot; the file is named by the heading's first word.
        x: column of the horizontal axis.
        mark: a value on the horizontal axis to mark, as the best epoch.

    Returns:
        The plots; those without a column in the metrics are left out.
    """
    records = run.read_metrics()
    paths = {title: run.path / "plots" / f"{title.split()[0]}.png" for title in curves}
    return [
        paths[title]
        for title, names in curves.items()
        if plot_curves(records, names, paths[title], x=x, title=title, mark=mark)
    ]


def write_run_report(
    run: RunDirectory,
    engine: str,
    facts: Mapping[str, str],
    tables: Mapping[str, tuple[Sequence[str], Sequence[Sequence[str]]]],
    plots: Sequence[Path],
) -> Path:
    """Write report.html of a run, with its machine, settings and plots inside.

    Args:
        run: the run.
        engine: name in the heading.
        facts: short lines under the heading, by name.
        tables: by heading, the column names and the rows.
        plots: PNG files to show.
    """
    environment = run.read_environment()
    machine = {"machine": f"{environment['cpu']}, {environment['cores']} cores"}
    settings = run.config_path.read_text(encoding="utf-8")
    title = f"{engine}: {run.path.name}"
    return write_report(run.path / "report.html", title, {**facts, **machine}, tables, plots, settings)


def write_report(
    path: Path,
    title: str,
    facts: Mapping[str, str],
    tables: Mapping[str, tuple[Sequence[str], Sequence[Sequence[str]]]],
    plots: Sequence[Path],
    settings: str = "",
) -> Path:
    """Write one HTML page with its plots inside.

    Args:
        path: page to write.
        title: heading.
        facts: short lines under the heading, by name.
        tables: by heading, the column names and the rows.
        plots: PNG files to show.
        settings: YAML shown at the end, if any.
    """
    body = [f"<h1>{html.escape(title)}</h1>", _facts(facts)]
    for heading, (columns, rows) in tables.items():
        body.append(f"<h2>{html.escape(heading)}</h2>{_table(columns, rows)}")
    body += [_image(plot) for plot in plots]
    if settings:
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
