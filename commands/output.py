"""What commands print: data on stdout, everything else on stderr."""

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from mmtoolkit.core.errors import ToolkitError


def start_output(*, quiet: bool, verbose: bool) -> None:
    """Set up logging for a command."""
    from mmtoolkit.core.logging import setup_logging

    if os.environ.get("RANK", "0") != "0":  # of several processes the first one speaks
        quiet, sys.stdout = True, Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    setup_logging(-1 if quiet else 1 if verbose else 0)


def print_error(error: ToolkitError) -> None:
    """Print an error on stderr, one line for each problem, and its hint."""
    for line in error.message.splitlines():
        typer.secho("error: ", fg="red", err=True, nl=False)
        typer.echo(line, err=True)
    if error.hint:
        typer.echo(f"hint: {error.hint}", err=True)


def print_json(command: str, **content: Any) -> None:
    """Print the one object of --json."""
    typer.echo(json.dumps({"command": command, **content}))


@dataclass(frozen=True)
class Table:
    """A table: a heading, column names, and rows of cells."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


Part = str | Mapping[str, str] | Table
"""A line, facts by name, or a table."""


def print_parts(parts: Iterable[Part]) -> None:
    """Print what a command found, part by part as they come."""
    for part in parts:
        if isinstance(part, str):
            typer.echo(part)
        elif isinstance(part, Table):
            print_table(part.title, part.columns, part.rows)
        else:
            print_facts(part)


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table on stdout, the first column to the left, the others to the right."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, box=SIMPLE_HEAD, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def print_facts(facts: Mapping[str, str]) -> None:
    """Print short lines `name  value` on stdout."""
    width = max(len(name) for name in facts)
    for name, value in facts.items():
        typer.echo(f"{name:<{width}}  {value}")


def facts_as_text(facts: Mapping[str, Any]) -> dict[str, str]:
    """Write numbers with separators, everything else unchanged."""
    return {k: f"{v:,}" if isinstance(v, int | float) else str(v) for k, v in facts.items()}
