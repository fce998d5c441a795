"""`mmtk distill`: teach, train, sample and export few-step diffusion models."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mmtoolkit.distill.sampling.grids import ScheduleKind

from .. import options
from ..options import (
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
from ..output import print_dry_run, print_facts, print_json, start_output

if TYPE_CHECKING:
    from mmtoolkit.distill.config import DistillSettings

    from ..plan import Plan

app = typer.Typer(
    no_args_is_help=True,
    help="Few-step diffusion by Target-Driven Distillation (TDD).",
    epilog="Start with: mmtk distill sample",
)

Data = Annotated[
    Path | None,
    typer.Option(
        metavar="PATH",
        help="Folder of pictures, .npz, webdataset .tar, a cache, or `shapes` for the embedded set.",
        rich_help_panel=options.CONFIGURATION,
    ),
]
Base = Annotated[
    str | None,
    typer.Option(
        metavar="PATH|HUB-ID",
        help="The base model, where it is not the run's.",
        rich_help_panel=options.CONFIGURATION,
    ),
]
Layout = Annotated[
    str | None,
    typer.Option(
        metavar="PATH|HUB-ID",
        help="For a base in a single file: where its configuration and tokenizers are.",
        rich_help_panel=options.CONFIGURATION,
    ),
]


FamilyName = Literal["pixel", "sd15", "sdxl", "sd3", "flux"]
ExportFormat = Literal["diffusers", "kohya", "merged"]
ExportPrecision = Literal["float32", "bfloat16", "float16"]
LoraScale = Annotated[
    float | None,
    typer.Option(
        min=0,
        help="Factor on a LoRA; the published TDD files say no alpha and want 0.125 (default: 1).",
        rich_help_panel=options.CONFIGURATION,
    ),
]
Family = Annotated[
    FamilyName | None,
    typer.Option(help="Kind of the base, for a LoRA file.", rich_help_panel=options.CONFIGURATION),
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

    plan = make_plan(config, assignments, flags_of(data, None, seed, device), resume, output)
    if dry_run:
        facts = engine.describe_work(plan.resolved.settings)
        print_dry_run("distill teach", plan.run.path, facts, as_json=as_json)
        return
    result = engine.teach(plan.resolved.settings, plan.run, resume=plan.resume)
    names = ("teacher.safetensors", "results.json", "samples")
    _print_result("distill teach", plan, result.steps, {"loss": result.loss}, names, as_json=as_json)


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

    settings = _settings(config, assignments, flags_of(data, base, seed, device))
    if dry_run:
        facts = engine.describe_work(settings)
        print_dry_run("distill cache", output, facts, as_json=as_json, folder="folder")
        return
    examples = engine.write_cache(settings, output)
    if as_json:
        print_json(
            "distill cache", pictures=len(examples), prompts=len(examples.prompts), files=[str(output)]
        )
    else:
        typer.echo(f"{output}: {len(examples):,} pictures, {len(examples.prompts):,} prompts")


@app.command(
    "train", epilog="Example: mmtk distill train -c sdxl --data pictures --base my-model -o runs/mine"
)
def train(
    config: Config = None,
    assignments: Set = None,
    data: Data = None,
    base: Base = None,
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
    """Distil a few-step student (default: of the embedded teacher)."""
    start_output(quiet=quiet, verbose=verbose)
    from mmtoolkit.distill import train as engine

    flags = flags_of(data, base, seed, device)
    plan = make_plan(config or default_preset(resume), assignments, flags, resume, output)
    if dry_run:
        facts = engine.describe_work(plan.resolved.settings)
        print_dry_run("distill train", plan.run.path, facts, as_json=as_json)
        return
    result = engine.train(plan.resolved.settings, plan.run, resume=plan.resume)
    names = ("report.html", "results.json", "samples", "checkpoints/last")
    metrics = {"loss": result.loss, **result.gaps}
    _print_result("distill train", plan, result.steps, metrics, names, as_json=as_json)


@app.command("sample", epilog="Example: mmtk distill sample --prompt 'two small red stars on black'")
def sample(
    checkpoint: Annotated[
        str,
        typer.Option(
            metavar="RUN|LORA|HUB-ID", help="The student; `shapes` ships.", rich_help_panel=options.RUN
        ),
    ] = "shapes",
    base: Base = None,
    family: Family = None,
    layout: Layout = None,
    prompt: Annotated[list[str] | None, typer.Option(help="What to draw; may be repeated.")] = None,
    prompts: Annotated[Path | None, typer.Option(metavar="FILE", help="Prompts, one a line.")] = None,
    label: Annotated[list[str] | None, typer.Option(help="Class to draw; may be repeated.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Network calls.")] = 4,
    guidance: Annotated[
        float | None,
        typer.Option(min=0, help="Guidance scale in the teacher's units (default: the student's own)."),
    ] = None,
    damped: Annotated[
        bool,
        typer.Option(
            "--damped/--undamped",
            help="Weaken guidance above the student's own over long jumps.",
        ),
    ] = True,
    eta: Annotated[float, typer.Option(min=0, max=1, help="Share of each jump that is noised back.")] = 0.0,
    schedule: Annotated[ScheduleKind, typer.Option(help="Placement of the steps.")] = "equidistant",
    clip_steps: Annotated[int, typer.Option(min=0, help="First steps with dynamic thresholding.")] = 0,
    lora_scale: LoraScale = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the noise.")] = 0,
    count: Annotated[int | None, typer.Option(min=1, help="Pictures (default: one a prompt, or 16).")] = None,
    grid: Annotated[bool, typer.Option(help="Also write all pictures on one grid.")] = True,
    device: Device = None,
    output: Output = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Draw pictures in a few steps; each PNG carries its settings."""
    start_output(quiet=quiet, verbose=verbose)
    from mmtoolkit.core.run import RunDirectory, default_run_path
    from mmtoolkit.distill import sample as engine

    texts = [*engine.read_prompts(prompt or [], prompts), *(label or [])]
    settings = engine.SampleSettings(
        steps, guidance, eta, schedule, seed, count or len(texts) or 16, clip_steps, lora_scale, damped
    )
    path, place = output or default_run_path("distill", "sample", seed), device.value if device else "auto"
    RunDirectory.new(path, "")  # refuse a folder in use before anything is drawn
    drawn = engine.sample(checkpoint, texts, settings, base=base, family=family, layout=layout, device=place)
    files = engine.write_samples(drawn, path, grid=grid)
    if as_json:
        metrics = {"seconds": drawn.seconds}
        print_json("distill sample", metrics=metrics, settings=drawn.settings, files=[str(f) for f in files])
    else:
        typer.echo(f"{files[0]}  {len(drawn.images)} pictures, {steps} steps, {drawn.seconds:.2f} s")


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
    ] = "diffusers",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="PATH", help="New file or folder (default: beside the run)."),
    ] = None,
    precision: Annotated[ExportPrecision, typer.Option(help="Of the numbers written.")] = "float16",
    base: Base = None,
    family: Family = None,
    layout: Layout = None,
    lora_scale: LoraScale = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Write a student for other programs, read it back and compare."""
    start_output(quiet=quiet, verbose=verbose)
    from mmtoolkit.distill import export as engine

    student = engine.open_student(checkpoint, base, family, layout, lora_scale)
    path = output or engine.default_output(checkpoint, form)
    result = engine.export(student, form, path, precision)
    metrics = {"max_error": result.error, "largest": result.largest}
    if as_json:
        print_json("distill export", format=form, metrics=metrics, files=[str(path)])
    else:
        typer.echo(f"{path}: max error {result.error:.1e} (largest value {result.largest:.1e})")


def default_preset(resume: Path | None) -> str | None:
    """Name the embedded set's preset for commands that were given none."""
    return None if resume else "shapes"


def flags_of(
    data: Path | None, base: str | None, seed: int | None, device: options.DeviceChoice | None
) -> dict[str, object]:
    """Name the settings that flags stand for."""
    return {"data.path": data, "model.base": base, "seed": seed, "device": device}


def _settings(
    config: str | None, assignments: list[str] | None, flags: Mapping[str, object]
) -> "DistillSettings":
    from mmtoolkit.core.config import config_layer, resolve
    from mmtoolkit.distill.config import DistillSettings

    from ..plan import command_layers

    layers = [config_layer("distill", config)] if config else []
    return resolve(DistillSettings, [*layers, *command_layers(assignments, flags)]).settings


def make_plan(
    config: str | None,
    assignments: list[str] | None,
    flags: Mapping[str, object],
    resume: Path | None,
    output: Path | None,
) -> "Plan[DistillSettings]":
    """Plan a new run, or the rest of the run `resume`, with the changes of the command line."""
    from mmtoolkit.distill.config import RESUMABLE, DistillSettings

    from ..plan import command_layers, plan_training

    changes = command_layers(assignments, flags)
    return plan_training("distill", DistillSettings, config, changes, resume, output, RESUMABLE)


def _print_result(
    command: str,
    plan: "Plan[DistillSettings]",
    steps: int,
    metrics: Mapping[str, float],
    names: tuple[str, ...],
    *,
    as_json: bool,
) -> None:
    files = [str(plan.run.path / name) for name in names]
    if as_json:
        print_json(command, run=str(plan.run.path), steps=steps, metrics=metrics, files=files)
    else:
        shown = {name: f"{value:.4f}" for name, value in metrics.items()}
        print_facts(shown | {Path(file).name: file for file in files})
