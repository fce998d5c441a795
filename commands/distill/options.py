"""Options that the distill commands share, and how they become settings."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from .. import options

if TYPE_CHECKING:
    from mmtoolkit.core.config import Resolved
    from mmtoolkit.distill.config import DistillSettings

    from ..plan import Plan

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
        help="Factor on a LoRA; the published TDD files state no alpha and need 0.125 (default: 1).",
        rich_help_panel=options.CONFIGURATION,
    ),
]
Family = Annotated[
    FamilyName | None,
    typer.Option(help="Kind of the base, for a LoRA file.", rich_help_panel=options.CONFIGURATION),
]
CacheOutput = Annotated[
    Path,
    typer.Option(
        "--output",
        "-o",
        metavar="FOLDER",
        help="New folder, or one that was not finished.",
        rich_help_panel=options.OUTPUT,
    ),
]
Run = Annotated[
    Path,
    typer.Option(
        "--checkpoint", metavar="RUN", help="A run of `distill train`.", rich_help_panel=options.RUN
    ),
]
Rules = Annotated[
    list[str] | None,
    typer.Option(
        "--rule", help="lcm, pcm, tcd, tdd or tdd-coupled; may be repeated (default: the first four)."
    ),
]
Take = Annotated[
    list[str] | None,
    typer.Option(
        metavar="RULE=RUN",
        help="Measure an existing run as that rule instead of training one; may be repeated.",
    ),
]


def default_preset(resume: Path | None) -> str | None:
    """Name the embedded set's preset for commands without `config`."""
    return None if resume else "shapes"


def flags_of(
    data: Path | None, base: str | None, seed: int | None, device: options.DeviceChoice | None
) -> dict[str, object]:
    """Name the settings that flags stand for."""
    return {"data.path": data, "model.base": base, "seed": seed, "device": device}


def resolve_settings(
    command: str, config: str | None, assignments: list[str] | None, flags: Mapping[str, object]
) -> "Resolved[DistillSettings]":
    """Resolve settings for a command that makes no run, and warn of those without effect."""
    from mmtoolkit.core.config import config_layer, resolve
    from mmtoolkit.distill.config import READ_BY, DistillSettings

    from ..plan import command_layers, warn_of_idle_settings

    layers = [config_layer("distill", config)] if config else []
    resolved = resolve(DistillSettings, [*layers, *command_layers(assignments, flags)])
    warn_of_idle_settings(resolved, READ_BY, command)
    return resolved


def make_plan(
    command: str,
    config: str | None,
    assignments: list[str] | None,
    flags: Mapping[str, object],
    resume: Path | None,
    output: Path | None,
) -> "Plan[DistillSettings]":
    """Plan a new run, or the rest of the run `resume`, and warn of settings without effect."""
    from mmtoolkit.distill.config import READ_BY, RESUMABLE, DistillSettings

    from ..plan import command_layers, plan_training, warn_of_idle_settings

    changes = command_layers(assignments, flags)
    plan = plan_training("distill", DistillSettings, config, changes, resume, output, RESUMABLE)
    if command != "compare":  # it varies the rule, by which most of the table goes
        warn_of_idle_settings(plan.resolved, READ_BY, command)
    return plan
