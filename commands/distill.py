"""`mmtk distill`: teach, train, sample, evaluate and compare few-step diffusion models."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import options
from .options import (
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
from .output import facts_as_text, print_facts, print_json, start_output

if TYPE_CHECKING:
    from mmtoolkit.distill.config import DistillSettings

    from .plan import Plan

app = typer.Typer(no_args_is_help=True, help="Few-step diffusion by Target-Driven Distillation.")

Data = Annotated[
    Path | None,
    typer.Option(
        metavar="PATH",
        help="Folder of pictures, .npz, webdataset .tar, or `shapes` for the embedded set.",
        rich_help_panel=options.CONFIGURATION,
    ),
]


@app.command("teach", epilog="Example: mmtk distill teach --data my-pictures -o runs/teacher")
def teach(
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
    """Train a small pixel-space diffusion model from nothing."""
    start_output(quiet=quiet, verbose=verbose)
    from mmtoolkit.distill import teach as engine

    flags = {"data.path": data, "seed": seed, "device": device}
    plan = _plan(config, assignments, flags, resume, output)
    if dry_run:
        _print_dry_run("distill teach", plan, engine.describe_work(plan.resolved.settings), as_json=as_json)
        return
    result = engine.teach(plan.resolved.settings, plan.run, resume=plan.resume)
    path = plan.run.path
    files = [str(path / name) for name in ("teacher.safetensors", "results.json", "samples")]
    if as_json:
        metrics = {"loss": result.loss}
        print_json("distill teach", run=str(path), steps=result.steps, metrics=metrics, files=files)
    else:
        print_facts({"loss": f"{result.loss:.4f}", "teacher": files[0], "samples": files[2]})


def _plan(
    config: str | None,
    assignments: list[str] | None,
    flags: Mapping[str, object],
    resume: Path | None,
    output: Path | None,
) -> "Plan[DistillSettings]":
    from mmtoolkit.core.config import set_layers
    from mmtoolkit.distill.config import RESUMABLE, DistillSettings

    from .plan import flag_layers, plan_resume, plan_run

    changes = [*set_layers(assignments or []), *flag_layers(flags)]
    if resume:
        return plan_resume(DistillSettings, resume, config, changes, output, RESUMABLE)
    return plan_run("distill", DistillSettings, config, changes, output)


def _print_dry_run(
    command: str, plan: "Plan[DistillSettings]", facts: Mapping[str, int | float | str], *, as_json: bool
) -> None:
    if as_json:
        print_json(command, run=str(plan.run.path), dry_run=True, **facts)
    else:
        print_facts({"run": f"{plan.run.path} (not made)", **facts_as_text(facts)})
