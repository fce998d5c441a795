"""`mmtk distill eval | compare`: measure students against their teacher and side by side."""

from pathlib import Path
from typing import Annotated

import typer

from .. import options
from ..options import Config, Debug, Device, Json, Output, Quiet, Resume, Seed, Set, Verbose
from ..output import print_json, print_table, start_output
from .train import Base, Data, default_preset, flags_of, make_plan

app = typer.Typer()

Run = Annotated[
    Path,
    typer.Option(
        "--checkpoint", metavar="RUN", help="A run of `distill train`.", rich_help_panel=options.RUN
    ),
]


@app.command("eval", epilog="Example: mmtk distill eval --checkpoint runs/mine -s evaluate.samples=5000")
def evaluate(
    checkpoint: Run,
    assignments: Set = None,
    device: Device = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Measure FID, KID, precision, recall, trajectory error and CLIP score by steps, eta and guidance."""
    start_output(quiet=quiet, verbose=verbose)
    from mmtoolkit.core.config import set_layers
    from mmtoolkit.distill import evaluate as engine

    found = engine.evaluate(checkpoint, set_layers(assignments or []), device.value if device else None)
    if as_json:
        print_json("distill eval", run=str(checkpoint), metrics=engine.flat_metrics(found))
        return
    print_table("Against the teacher's 50 steps and the data", *engine.cell_table(found.cells))
    print_table("The teacher itself", *engine.teacher_table(found.teacher))


@app.command("compare", epilog="Example: mmtk distill compare -c shapes --seeds 3 -o runs/compare")
def compare(
    config: Config = None,
    assignments: Set = None,
    rules: Annotated[
        list[str] | None,
        typer.Option(
            "--rule", help="lcm, pcm, tcd, tdd or tdd-coupled; may be repeated (default: the first four)."
        ),
    ] = None,
    take: Annotated[
        list[str] | None,
        typer.Option(
            metavar="RULE=RUN",
            help="Judge a run that is there as that rule instead of training one; may be repeated.",
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Students of each rule.")] = 1,
    data: Data = None,
    base: Base = None,
    seed: Seed = None,
    device: Device = None,
    resume: Resume = None,
    output: Output = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Train LCM, PCM, TCD and TDD at an equal budget from one teacher, and put them side by side."""
    start_output(quiet=quiet, verbose=verbose)
    from mmtoolkit.distill import compare as engine

    flags = flags_of(data, base, seed, device)
    plan = make_plan(config or default_preset(resume), assignments, flags, resume, output)
    found = engine.compare(plan.resolved, plan.run, rules or engine.ALL, seeds, take or [])
    path = plan.run.path
    if as_json:
        files = [str(path / name) for name in ("report.html", "results.json", "tables.md")]
        print_json("distill compare", run=str(path), metrics=engine.flat_comparison(found), files=files)
        return
    for metric in engine.metrics_of(found):
        print_table(f"{metric} (* best)", *engine.comparison_table(found, metric))
    typer.echo(f"report  {path / 'report.html'}")
