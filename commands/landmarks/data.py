"""`mmtk landmarks`: convert, complete and hand in data sets; draw the points."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from .. import options
from ..options import Debug, Device, DryRun, Json, Quiet, Seed, Verbose
from ..output import facts_as_text, print_facts, print_json, start_output
from .options import (
    DATA,
    Download,
    Finder,
    Flip,
    NewFile,
    Weights,
    open_detector,
    open_landmarker,
)

app = typer.Typer()


class LabelFormat(StrEnum):
    """Formats of labels."""

    txt = "txt"
    pts = "pts"
    wflw = "wflw"
    csv = "csv"
    coco = "coco"


@app.command(
    "convert", epilog="Example: mmtk landmarks convert wflw.txt --to jd106 --format coco -o faces.json"
)
def convert(
    source: Annotated[Path, typer.Argument(metavar="SET", help=DATA)],
    output: NewFile,
    scheme: Annotated[
        str, typer.Option("--to", help="jd106, insightface106, sensetime106, wflw98, ibug68, mediapipe478.")
    ] = "jd106",
    scheme_from: Annotated[
        str | None, typer.Option("--from", help="Scheme of the labels (default: by their number).")
    ] = None,
    kind: Annotated[LabelFormat, typer.Option("--format", help="Format to write.")] = LabelFormat.coco,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write the labels of a data set in another scheme and format."""
    from mmtoolkit.landmarks.data.write import convert_file

    count = convert_file(source, output, scheme, kind.value, scheme_from)
    if as_json:
        print_json("landmarks convert", faces=count, scheme=scheme, files=[str(output)])
    else:
        typer.echo(f"{output}: {scheme} points of {count} faces")


@app.command("complete", epilog="Example: mmtk landmarks complete helen helen106 --model ict_facekit.npz")
def complete(
    source: Annotated[
        Path, typer.Argument(metavar="SET", help=f"Photographs with 68 points or more: {DATA}")
    ],
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="New or empty folder.")],
    model: Annotated[
        Path, typer.Option(metavar="FILE", help="ICT-FaceKit light (.npz).", rich_help_panel=options.RUN)
    ],
    views: Annotated[int, typer.Option(help="Turned views of each photograph.", min=0, max=50)] = 4,
    shift: Annotated[
        tuple[float, float],
        typer.Option(metavar="X Y", help="Pixels added to the given points, where all lie off the same way."),
    ] = (0.0, 0.0),
    seed: Seed = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Fit a 3-D head to 68 points; write all 106 with confidences, and turned views."""
    start_output(quiet=quiet, verbose=verbose)
    from mmtoolkit.landmarks.complete import complete as complete_engine
    from mmtoolkit.landmarks.complete import describe_work

    if dry_run:
        facts = describe_work(source, model, views)
    else:
        facts = complete_engine(source, output, model, views, seed or 0, shift).facts()
    if as_json:
        print_json("landmarks complete", dry_run=dry_run, **facts, files=[] if dry_run else [str(output)])
    else:
        print_facts({"output": f"{output} (not made)" if dry_run else str(output), **facts_as_text(facts)})


@app.command("points", epilog="Example: mmtk landmarks points -o points.png")
def points(output: NewFile, debug: Debug = False) -> None:
    """Draw the 106 numbered points on a rendered face."""
    from mmtoolkit.landmarks.chart import draw_chart

    draw_chart(output)
    typer.echo(output)


@app.command("submit", epilog="Example: mmtk landmarks submit --data Test_data -o submission.zip")
def submit(
    data: Annotated[Path, typer.Option(metavar="FOLDER", help="Pictures, with their boxes in rect/.")],
    output: NewFile,
    checkpoint: Weights = None,
    detector: Finder = None,
    download: Download = False,
    flip: Flip = False,
    device: Device = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Predict a test set and write a checked zip to hand in."""
    start_output(quiet=quiet, verbose=verbose)
    from mmtoolkit.landmarks.tasks import submit as submit_engine

    landmarker = open_landmarker(checkpoint, device, flip=flip)
    finder = open_detector(detector, landmarker, download=download)
    pictures = submit_engine(landmarker, data, output, finder)
    if as_json:
        print_json("landmarks submit", pictures=pictures, files=[str(output)])
    else:
        typer.echo(f"{output}: {pictures} predictions, checked")
