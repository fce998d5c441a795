"""Options that several commands of `mmtk recommend` share."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from .. import options as opt


class Split(StrEnum):
    """Splits to evaluate on."""

    validation = "validation"
    test = "test"


class Format(StrEnum):
    """Formats of lists."""

    csv = "csv"
    jsonl = "jsonl"
    parquet = "parquet"


def given(help_text: str, metavar: str = "FILE") -> Any:
    """Return an option for something that the user provides."""
    return typer.Option(metavar=metavar, help=help_text, rich_help_panel=opt.CONFIGURATION)


Data = Annotated[Path | None, given("Data set folder, or `demo` for the embedded one.", "FOLDER")]
TopK = Annotated[int, typer.Option(help="Length of each list.", min=1)]
Numbers = Annotated[
    bool,
    typer.Option(
        "--numbers", help="Ids are row numbers, not those of the shop.", rich_help_panel=opt.CONFIGURATION
    ),
]
ListFile = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        help="File to write, .csv, .jsonl or .parquet (default: stdout).",
        rich_help_panel=opt.OUTPUT,
    ),
]
ListFormat = Annotated[
    Format | None,
    typer.Option("--format", help="Default: by the file's name, else csv.", rich_help_panel=opt.OUTPUT),
]
