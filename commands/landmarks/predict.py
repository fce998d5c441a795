"""`mmtk landmarks`: find faces and locate their points."""

from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmtoolkit.core.errors import UsageError

from ..command import Answer, command
from ..options import Device
from .options import Download, Finder, Flip, NewFolder, Weights, open_detector, open_landmarker

if TYPE_CHECKING:
    from mmtoolkit.landmarks.prediction.pictures import Prediction

app = typer.Typer()


class Kind(StrEnum):
    """Formats of predictions."""

    json = "json"
    csv = "csv"
    txt = "txt"
    pts = "pts"
    overlay = "overlay"
    video = "video"
    crops = "crops"


@command(app, "landmarks predict", example="mmtk landmarks predict photo.jpg -o points")
def predict(
    source: Annotated[
        str, typer.Argument(metavar="PICTURE|FOLDER|VIDEO|CAMERA", help="A camera is a number.")
    ],
    output: NewFolder = None,
    kinds: Annotated[
        list[Kind] | None,
        typer.Option("--format", help="Format to write, may be repeated (default: json, overlay)."),
    ] = None,
    detector: Finder = None,
    download: Download = False,
    box: Annotated[
        str | None, typer.Option(metavar="L,T,R,B", help="Box of the one face of a picture.")
    ] = None,
    checkpoint: Weights = None,
    passes: Annotated[int, typer.Option(help="Passes over each face of a picture.", min=1, max=3)] = 2,
    smooth: Annotated[bool, typer.Option(help="Smooth the points of a video.")] = True,
    frames: Annotated[int, typer.Option(help="Stop a video after so many frames; 0: at its end.", min=0)] = 0,
    workers: Annotated[
        int | None, typer.Option(help="Threads for pictures (default: one per core).", min=1)
    ] = None,
    flip: Flip = False,
    device: Device = None,
    as_json: bool = False,
) -> Answer:
    """Find faces and locate their points; with --output, write them."""
    from mmtoolkit.landmarks.predict import parse_box
    from mmtoolkit.landmarks.predict import predict as predict_engine

    if box is not None and (detector or download):
        raise UsageError("give the --box or a --detector that finds it, not both")
    given = None if box is None else parse_box(box)
    landmarker = open_landmarker(checkpoint, device, flip=flip)
    finder = None if box else open_detector(detector, landmarker, download=download)
    found = predict_engine(
        source, landmarker, finder, box=given, passes=passes, smooth=smooth, frames=frames, workers=workers
    )
    if output:
        return _write(found, output, [kind.value for kind in kinds or []])
    if kinds:
        raise UsageError("--format needs --output FOLDER")
    return _show(found, as_json=as_json)


def _write(found: "Iterator[Prediction]", output: Path, kinds: list[str]) -> Answer:
    """Write predictions to a folder, one by one."""
    from mmtoolkit.landmarks.prediction.outputs import OutputFolder

    faces = pictures = 0
    with OutputFolder(output, kinds or ["json", "overlay"]) as folder:
        for prediction in found:
            folder.write(prediction)
            pictures, faces = pictures + 1, faces + len(prediction.faces)
    content = {"pictures": pictures, "faces": faces, "files": [str(file) for file in folder.files]}
    return Answer(content, [f"{output}: {faces} faces in {pictures} pictures"])


def _show(found: "Iterator[Prediction]", *, as_json: bool) -> Answer:
    """Print predictions; as text one by one, so that a camera's stream shows at once."""
    from mmtoolkit.landmarks.prediction.outputs import face_record

    if not as_json:
        return Answer({}, (line for prediction in found for line in _lines(prediction)))
    records = [{"name": p.name, "faces": [face_record(face) for face in p.faces]} for p in found]
    return Answer({"pictures": records})


def _lines(prediction: "Prediction") -> Iterator[str]:
    if not prediction.faces:
        yield f"{prediction.name}: no face"
    for number, face in enumerate(prediction.faces):
        left, top, right, bottom = (round(v) for v in face.box.tolist())
        yaw, pitch, roll = (round(angle) for angle in face.pose)
        yield (
            f"{prediction.name}: face {number if face.track < 0 else face.track}  "
            f"box {left},{top},{right},{bottom}  score {face.scores.mean():.2f}  "
            f"yaw {yaw}  pitch {pitch}  roll {roll}"
        )
