"""What the commands of `mmtk distill` share."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from .. import options

if TYPE_CHECKING:
    from mmtoolkit.core.config import Layer
    from mmtoolkit.distill.config import DistillSettings

    from ..plan import Plan

FamilyName = Literal["pixel", "sd15", "sdxl", "sd3", "flux"]
ExportFormat = Literal["diffusers", "kohya", "merged"]
ExportPrecision = Literal["float32", "bfloat16", "float16"]

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
        help="The base model, if it is not the run's.",
        rich_help_panel=options.CONFIGURATION,
    ),
]
Layout = Annotated[
    str | None,
    typer.Option(
        metavar="PATH|HUB-ID",
        help="For a base in a single file: source of its configuration and tokenizers.",
        rich_help_panel=options.CONFIGURATION,
    ),
]
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
Run = Annotated[
    Path,
    typer.Option(
        "--checkpoint", metavar="RUN", help="A run of `distill train`.", rich_help_panel=options.RUN
    ),
]
CacheFolder = Annotated[
    Path,
    typer.Option(
        "--output",
        "-o",
        metavar="FOLDER",
        help="New folder, or an unfinished cache.",
        rich_help_panel=options.OUTPUT,
    ),
]


def flags_of(
    data: Path | None, base: str | None, seed: int | None, device: options.DeviceChoice | None
) -> dict[str, object]:
    """Name the settings that flags stand for."""
    return {"data.path": data, "model.base": base, "seed": seed, "device": device}


def layers_of(
    config: str | None, assignments: Sequence[str] | None, flags: Mapping[str, object]
) -> "list[Layer]":
    """Return the layers of a preset or file, `--set` and flags."""
    from mmtoolkit.core.config import config_layer

    from ..plan import command_layers

    return [*([config_layer("distill", config)] if config else []), *command_layers(assignments, flags)]


def make_plan(
    command: str,
    config: str | None,
    assignments: Sequence[str] | None,
    flags: Mapping[str, object],
    resume: Path | None,
    output: Path | None,
) -> "Plan[DistillSettings]":
    """Plan a new run, or the rest of the run `resume`; without a preset, of the embedded set."""
    from mmtoolkit.distill.config import READ_BY, RESUMABLE, DistillSettings

    from ..plan import command_layers, plan_training, warn_of_idle_settings

    changes = command_layers(assignments, flags)
    plan = plan_training("distill", DistillSettings, config, changes, resume, output, RESUMABLE)
    warn_of_idle_settings(plan.resolved, READ_BY, command)
    return plan


def default_preset(resume: Path | None) -> str | None:
    """Name the embedded set's preset for commands that were given none."""
    return None if resume else "shapes"
