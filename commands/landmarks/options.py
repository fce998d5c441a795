"""Options that the commands of `mmtk landmarks` share, and the functions that open what they name."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .. import options

if TYPE_CHECKING:
    from mmtoolkit.landmarks.detection.detect import Detector
    from mmtoolkit.landmarks.load import Landmarker

SETS = "JD, LaPa or .pts folder or zip, WFLW list (.txt), COCO keypoints (.json)."
Data = Annotated[
    Path | None,
    typer.Option(
        metavar="SET",
        help=f"Labelled faces (default: 200 rendered ones): {SETS}",
        rich_help_panel=options.CONFIGURATION,
    ),
]
Photographs = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="SET", help=f"Photographs, may be repeated: {SETS}", rich_help_panel=options.CONFIGURATION
    ),
]
Scenes = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="Pictures without faces.", rich_help_panel=options.CONFIGURATION),
]
Steps = Annotated[
    int, typer.Option(help="Batches of 24 pictures.", min=1, rich_help_panel=options.CONFIGURATION)
]
Rendered = Annotated[
    int,
    typer.Option(help="Rendered faces beside the photographs.", min=0, rich_help_panel=options.CONFIGURATION),
]
Predictions = Annotated[
    Path | None,
    typer.Argument(metavar="[PREDICTIONS]", help="Folder or zip of <picture>.txt, instead of a network."),
]
Points79 = Annotated[
    bool, typer.Option("--79", help="Score the third challenge's 79 points.", rich_help_panel=options.RUN)
]
Weights = Annotated[
    Path | None,
    typer.Option(
        "--checkpoint",
        metavar="RUN|FILE",
        help="Run, checkpoint or exported .safetensors (default: the weights that ship).",
        rich_help_panel=options.RUN,
    ),
]
Flip = Annotated[
    bool, typer.Option("--flip", help="Average with the mirrored crop.", rich_help_panel=options.RUN)
]
Alpha = Annotated[float, typer.Option(help="NME of a failure.", min=1e-6, rich_help_panel=options.RUN)]
NewFile = Annotated[
    Path, typer.Option("--output", "-o", metavar="FILE", help="New file.", rich_help_panel=options.OUTPUT)
]
NewFolder = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FOLDER",
        help="New or empty folder to write to.",
        rich_help_panel=options.OUTPUT,
    ),
]


DETECTORS = ("small", "yunet", "blazeface", "scrfd", "sfd", "whole")


def _complete_detectors(incomplete: str) -> list[str]:
    return [name for name in DETECTORS if name.startswith(incomplete)]


Finder = Annotated[
    str | None,
    typer.Option(
        "--detector",
        metavar="NAME|FILE",
        help="Finds the faces of pictures without .rect file: small (default), yunet, blazeface, scrfd, sfd, "
        "a file from train-detector, or `whole`, which uses the whole picture as the face.",
        rich_help_panel=options.RUN,
        autocompletion=_complete_detectors,
    ),
]
Download = Annotated[
    bool, typer.Option("--download", help="Let a detector fetch its weights.", rich_help_panel=options.RUN)
]


def open_landmarker(
    checkpoint: Path | None, device: options.DeviceChoice | None, *, flip: bool = False
) -> "Landmarker":
    """Load the network that the user named, or the one that ships."""
    from mmtoolkit.landmarks.load import load

    return load(checkpoint, device.value if device else "auto", flip=flip)


def open_detector(name: str | None, landmarker: "Landmarker", *, download: bool) -> "Detector":
    """Make the detector that the user named, or the small one, on the network's device."""
    from mmtoolkit.landmarks.detection.detect import make_detector

    return make_detector(name or "small", landmarker.device.type, download=download)
