"""`mmtk distill`: teach, train, sample, evaluate and compare few-step diffusion models."""

from collections.abc import Mapping
from enum import StrEnum
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


Base = Annotated[
    str | None,
    typer.Option(
        metavar="PATH|HUB-ID",
        help="The model to distil: a pipeline's folder, a single file or a hub id.",
        rich_help_panel=options.CONFIGURATION,
    ),
]


class Family(StrEnum):
    """Latent families."""

    sd15 = "sd15"
    sdxl = "sdxl"
    sd3 = "sd3"
    flux = "flux"


class ExportFormat(StrEnum):
    """Layouts of exported students."""

    diffusers = "diffusers"
    kohya = "kohya"
    merged = "merged"


class ExportPrecision(StrEnum):
    """Number formats of exported students."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


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


@app.command(
    "cache", epilog="Example: mmtk distill cache -c sdxl --base my-model --data pictures -o pictures-sdxl"
)
def cache(
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="FOLDER",
            help="New folder, or one that was not finished.",
            rich_help_panel=options.OUTPUT,
        ),
    ],
    config: Config = None,
    assignments: Set = None,
    data: Data = None,
    base: Base = None,
    seed: Seed = None,
    device: Device = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Encode pictures and prompts once, so that training holds neither autoencoder nor text encoders."""
    start_output(quiet=quiet, verbose=verbose)
    from mmtoolkit.distill import cache as engine

    flags = {"data.path": data, "model.base": base, "seed": seed, "device": device}
    settings = _settings(config, assignments, flags)
    if dry_run:
        facts = engine.describe_work(settings)
        if as_json:
            print_json("distill cache", folder=str(output), dry_run=True, **facts)
        else:
            print_facts({"folder": f"{output} (not made)", **facts_as_text(facts)})
        return
    examples = engine.write_cache(settings, output)
    if as_json:
        print_json(
            "distill cache", pictures=len(examples), prompts=len(examples.prompts), files=[str(output)]
        )
    else:
        typer.echo(f"{output}: {len(examples):,} pictures, {len(examples.prompts):,} prompts")


@app.command("export", epilog="Example: mmtk distill export --checkpoint runs/mine --format kohya")
def export(
    checkpoint: Annotated[
        Path,
        typer.Option(
            metavar="RUN|LORA",
            help="Folder of a run, or a LoRA of any layout (then with --base and --family).",
            rich_help_panel=options.RUN,
        ),
    ],
    form: Annotated[
        ExportFormat,
        typer.Option("--format", help="A LoRA for Diffusers or ComfyUI and A1111, or a whole pipeline."),
    ] = ExportFormat.diffusers,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="PATH", help="New file or folder (default: beside the run)."),
    ] = None,
    precision: Annotated[
        ExportPrecision, typer.Option(help="Of the numbers written.")
    ] = ExportPrecision.float16,
    base: Base = None,
    family: Annotated[Family | None, typer.Option(help="Kind of the base, for a LoRA file.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Write a student for other programs, read it back and compare."""
    start_output(quiet=quiet, verbose=verbose)
    from mmtoolkit.distill import export as engine

    student = engine.open_student(checkpoint, base, family.value if family else None)
    path = output or engine.default_output(checkpoint, form.value)
    result = engine.export(student, form.value, path, precision.value)
    metrics = {"max_error": result.error, "largest": result.largest}
    if as_json:
        print_json("distill export", format=form.value, metrics=metrics, files=[str(path)])
    else:
        typer.echo(f"{path}: max error {result.error:.1e} (largest value {result.largest:.1e})")


def _settings(
    config: str | None, assignments: list[str] | None, flags: Mapping[str, object]
) -> "DistillSettings":
    from mmtoolkit.core.config import config_layer, resolve, set_layers
    from mmtoolkit.distill.config import DistillSettings

    from .plan import flag_layers

    layers = [config_layer("distill", config)] if config else []
    changes = [*set_layers(assignments or []), *flag_layers(flags)]
    return resolve(DistillSettings, [*layers, *changes]).settings


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
