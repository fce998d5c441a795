"""`mmtk landmarks`: export a network."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from .. import options
from ..command import Answer, command
from .options import NewFile, Weights, open_landmarker

app = typer.Typer()


class ExportFormat(StrEnum):
    """Formats of networks."""

    onnx = "onnx"
    torchscript = "torchscript"
    safetensors = "safetensors"


@command(app, "landmarks export", example="mmtk landmarks export --format onnx -o compact.onnx")
def export(
    output: NewFile,
    kind: Annotated[ExportFormat, typer.Option("--format", help="Format to write.")] = ExportFormat.onnx,
    checkpoint: Weights = None,
    data: Annotated[
        Path | None, typer.Option(metavar="SET", help="Faces to compare on (default: rendered ones).")
    ] = None,
) -> Answer:
    """Export a network and compare it with torch on real crops."""
    from mmtoolkit.landmarks.export import export as export_engine

    landmarker = open_landmarker(checkpoint, options.DeviceChoice.cpu)
    done = export_engine(landmarker, output, kind.value, data)
    content = {"format": kind.value, "bytes": done.size, "difference_pixels": done.difference}
    line = f"{output}: {done.size:,} bytes, at most {done.difference:.2g} pixels from torch's points"
    return Answer({**content, "files": [str(output)]}, [line])
