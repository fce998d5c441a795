"""`mmtk distill export`: write a student for other programs."""

from pathlib import Path
from typing import Annotated

import typer

from .. import options
from ..command import Answer, command
from .options import Base, ExportFormat, ExportPrecision, Family, Layout, LoraScale

app = typer.Typer()


@command(app, "distill export", example="mmtk distill export --checkpoint runs/mine --format kohya")
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
) -> Answer:
    """Write a student for other programs, read it back and compare."""
    from mmtoolkit.distill.export import default_output, export
    from mmtoolkit.distill.load import open_student

    student = open_student(checkpoint, base, family, layout, lora_scale)
    path = output or default_output(checkpoint, form)
    result = export(student, form, path, precision)
    metrics = {"max_error": result.error, "largest": result.largest}
    shown = f"{path}: max error {result.error:.1e} (largest value {result.largest:.1e})"
    return Answer({"format": form, "metrics": metrics, "files": [str(path)]}, [shown])
