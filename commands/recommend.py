"""`mmtk recommend`: train, evaluate and predict with IGDMRec."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from . import options
from .options import (
    Checkpoint,
    Config,
    Debug,
    Device,
    DryRun,
    Json,
    Output,
    Quiet,
    Resume,
    Seed,
    Set,
    Verbose,
)
from .output import print_facts, print_json, print_table, start_output

app = typer.Typer(
    no_args_is_help=True, help="Multimodal recommendation with a denoised item graph (IGDMRec)."
)

Data = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="Data set folder, or `demo` for the embedded one.",
        rich_help_panel=options.CONFIGURATION,
    ),
]


class Split(StrEnum):
    """Splits to evaluate on."""

    validation = "validation"
    test = "test"


class Seen(StrEnum):
    """What counts as seen in predictions."""

    train = "train"
    validation = "validation"
    all = "all"


class Format(StrEnum):
    """Formats of predictions."""

    csv = "csv"
    jsonl = "jsonl"


@app.command("train", epilog="Example: mmtk recommend train -c igdmrec --data baby -o runs/baby")
def train(
    config: Config = None,
    assignments: Set = None,
    data: Data = None,
    seed: Seed = None,
    device: Device = None,
    resume: Resume = None,
    dry_run: DryRun = False,
    output: Output = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Train until validation stops improving, then test the best epoch once."""
    start_output(quiet=quiet, verbose=verbose)
    from ._recommend_train import dry_run_report, plan_run, train_and_report

    flags = {"data.path": data, "seed": seed, "device": device}
    plan = plan_run(config, assignments or [], flags, resume, output)
    if dry_run:
        dry_run_report(plan, as_json=as_json)
    else:
        train_and_report(plan, as_json=as_json)
