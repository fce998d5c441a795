import json
from pathlib import Path
from typing import Annotated

import pytest
import typer
from mmtoolkit.commands.app import RootGroup
from mmtoolkit.commands.command import Answer, command, planned, show_flags
from mmtoolkit.commands.output import Table
from typer.testing import CliRunner

from mmtoolkit.core.errors import UsageError

app = typer.Typer(cls=RootGroup)


@app.callback()
def root() -> None:
    """Make a group of it."""


@command(app, "show", example="mmtk show 3")
def show(
    number: Annotated[int, typer.Argument(metavar="NUMBER")],
    folder: Annotated[Path | None, typer.Option("--output", "-o")] = None,  # noqa: ARG001
    as_json: bool = False,
) -> Answer:
    """Show a number."""
    if number < 0:
        raise UsageError("`number` -1: too small; see `output`, `folder` and `nothing`")
    if number == 0:
        return planned(Path("runs/x"), {"steps": 1200})
    table = Table("Numbers", ["name", "value"], [["one", "1"]])
    return Answer({"number": number, "given": as_json}, ["first", {"a": "1", "long": "2"}, table])


def run(*arguments):
    return CliRunner().invoke(app, ["show", *arguments])


def test_parts_are_printed_in_order():
    lines = [line.strip() for line in run("3").stdout.splitlines() if line.strip()]
    assert lines[:3] == ["first", "a     1", "long  2"]
    assert lines[3] == "Numbers"
    assert lines[-1].split() == ["one", "1"]


def test_json_is_one_object():
    assert json.loads(run("3", "--json").stdout) == {"command": "show", "number": 3, "given": True}


def test_a_dry_run_names_the_folder():
    assert run("0").stdout.splitlines() == ["run    runs/x (not made)", "steps  1,200"]
    assert json.loads(run("0", "--json").stdout)["steps"] == 1200


def test_errors_show_flags_for_arguments():
    result = run("--", "-1")
    assert result.exit_code == 2
    assert "NUMBER -1: too small; see --output, --output and `nothing`" in result.stderr


@pytest.mark.parametrize("text", ["no names", "a `b` c"])
def test_other_text_stays(text):
    assert show_flags(text, {"x": "--x"}) == text
