"""Options that commands share; every leaf takes those that make sense for it."""

import math
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal, overload

import typer

from mmtoolkit.core.errors import UsageError

CONFIGURATION, RUN, OUTPUT = "Configuration", "Run", "Output"


class DeviceChoice(StrEnum):
    """Where to compute."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    mps = "mps"


def _complete_presets(ctx: typer.Context, incomplete: str) -> list[str]:
    from mmtoolkit.core.config import preset_names

    engine = ctx.command_path.split()[-2]
    return [name for name in preset_names(engine) if name.startswith(incomplete)]


def _remember_debug(ctx: typer.Context, value: bool) -> bool:
    ctx.meta["mmtk.debug"] = value
    return value


Config = Annotated[
    str | None,
    typer.Option(
        "--config",
        "-c",
        metavar="PRESET|FILE",
        help="A preset (`mmtk config list`) or a YAML file.",
        rich_help_panel=CONFIGURATION,
        autocompletion=_complete_presets,
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        "-s",
        metavar="KEY=VALUE",
        help="Change one setting; may be repeated.",
        rich_help_panel=CONFIGURATION,
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(help="Seed of every random draw.", min=0, rich_help_panel=CONFIGURATION),
]
Device = Annotated[
    DeviceChoice | None,
    typer.Option(help="Where to compute (default: the fastest device).", rich_help_panel=RUN),
]
Resume = Annotated[
    Path | None,
    typer.Option(metavar="RUN", help="Continue a run from its last checkpoint.", rich_help_panel=RUN),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        "-n",
        help="Check settings and data, print sizes, write nothing.",
        rich_help_panel=RUN,
    ),
]
Checkpoint = Annotated[
    Path,
    typer.Option(
        metavar="RUN",
        help="Folder of a run (its best checkpoint) or of one checkpoint.",
        rich_help_panel=RUN,
    ),
]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FOLDER",
        help="New or empty folder for the run (default: below runs/).",
        rich_help_panel=OUTPUT,
    ),
]
Json = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON object on stdout.", rich_help_panel=OUTPUT),
]
Quiet = Annotated[
    bool,
    typer.Option("--quiet", "-q", help="Show warnings and errors only.", rich_help_panel=OUTPUT),
]
Verbose = Annotated[
    bool,
    typer.Option("--verbose", "-v", help="Show every log line.", rich_help_panel=OUTPUT),
]
Debug = Annotated[
    bool,
    typer.Option(
        "--debug",
        help="Show the traceback of an error.",
        callback=_remember_debug,
        rich_help_panel=OUTPUT,
    ),
]


@overload
def parse_numbers(option: str, text: str) -> list[float]: ...
@overload
def parse_numbers(option: str, text: str, *, whole: Literal[True]) -> list[int]: ...
def parse_numbers(option: str, text: str, *, whole: bool = False) -> list[int] | list[float]:
    """Read `0.1,0.2` in rising order, each number once.

    Raises:
        UsageError: if a part is no number, is negative, or is not whole where it must be.
    """
    try:
        numbers = sorted({float(part) for part in text.split(",")})
    except ValueError:
        raise UsageError(f"{option} {text}: write numbers with commas between, as 1,2,4") from None
    if not all(0 <= number < math.inf for number in numbers):
        raise UsageError(f"{option} {text}: numbers must not lie below 0")
    if not whole:
        return numbers
    if any(number < 1 or number != int(number) for number in numbers):
        raise UsageError(f"{option} {text}: write whole numbers from 1, as 2000,4000")
    return [int(number) for number in numbers]
