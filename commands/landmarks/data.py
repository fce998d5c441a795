"""`mmtk landmarks`: convert, complete and submit data sets; plot the points."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from .. import options
from ..command import Answer, command, planned
from ..options import Device, DryRun, Seed
from .options import SETS, Download, Finder, Flip, NewFile, Weights, open_detector, open_landmarker

app = typer.Typer()


class LabelFormat(StrEnum):
    """Formats of labels."""

    txt = "txt"
    pts = "pts"
    wflw = "wflw"
    csv = "csv"
    coco = "coco"


@command(
    app,
    "landmarks convert",
    example="mmtk landmarks convert wflw.txt --to jd106 --format coco -o faces.json",
)
def convert(
    source: Annotated[Path, typer.Argument(metavar="SET", help=SETS)],
    output: NewFile,
    scheme: Annotated[
        str, typer.Option("--to", help="jd106, insightface106, sensetime106, wflw98, ibug68, mediapipe478.")
    ] = "jd106",
    scheme_from: Annotated[
        str | None, typer.Option("--from", help="Scheme of the labels (default: by their number).")
    ] = None,
    kind: Annotated[LabelFormat, typer.Option("--format", help="Format to write.")] = LabelFormat.coco,
) -> Answer:
    """Write the labels of a data set in another scheme and format."""
    from mmtoolkit.landmarks.convert import convert as convert_engine

    count = convert_engine(source, output, scheme, kind.value, scheme_from)
    content = {"faces": count, "scheme": scheme, "files": [str(output)]}
    return Answer(content, [f"{output}: {scheme} points of {count} faces"])


@command(app, "landmarks complete", example="mmtk landmarks complete helen helen106 --model ict_facekit.npz")
def complete(
    source: Annotated[
        Path, typer.Argument(metavar="SET", help=f"Photographs with 68 points or more: {SETS}")
    ],
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="New or empty folder.")],
    model: Annotated[
        Path, typer.Option(metavar="FILE", help="ICT-FaceKit light (.npz).", rich_help_panel=options.RUN)
    ],
    views: Annotated[int, typer.Option(help="Turned views of each photograph.", min=0, max=50)] = 4,
    shift: Annotated[
        tuple[float, float],
        typer.Option(metavar="X Y", help="Pixels to add to the given points, if all are shifted alike."),
    ] = (0.0, 0.0),
    seed: Seed = None,
    dry_run: DryRun = False,
) -> Answer:
    """Fit a 3-D head to 68 points; write all 106 with confidences, and turned views."""
    from mmtoolkit.landmarks.complete import complete as complete_engine
    from mmtoolkit.landmarks.complete import describe_work

    if dry_run:
        return planned(output, describe_work(source, model, views), folder="output")
    facts = complete_engine(source, output, model, views, seed or 0, shift).facts()
    shown = {name: f"{value:,}" for name, value in facts.items()}
    return Answer({"dry_run": False, **facts, "files": [str(output)]}, [{"output": str(output), **shown}])


@command(app, "landmarks points", example="mmtk landmarks points -o points.png")
def points(output: NewFile) -> Answer:
    """Plot the 106 numbered points on a rendered face."""
    from mmtoolkit.landmarks.points import draw_numbered_points

    draw_numbered_points(output)
    return Answer({"files": [str(output)]}, [str(output)])


@command(app, "landmarks submit", example="mmtk landmarks submit --data Test_data -o submission.zip")
def submit(
    data: Annotated[Path, typer.Option(metavar="FOLDER", help="Pictures, with their boxes in rect/.")],
    output: NewFile,
    checkpoint: Weights = None,
    detector: Finder = None,
    download: Download = False,
    flip: Flip = False,
    device: Device = None,
) -> Answer:
    """Predict a test set, write a zip for the challenge and check it."""
    from mmtoolkit.landmarks.submit import submit as submit_engine

    landmarker = open_landmarker(checkpoint, device, flip=flip)
    finder = open_detector(detector, landmarker, download=download)
    pictures = submit_engine(data, output, landmarker, finder)
    content = {"pictures": pictures, "files": [str(output)]}
    return Answer(content, [f"{output}: {pictures} predictions, checked"])
