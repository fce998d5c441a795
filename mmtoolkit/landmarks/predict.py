"""The function behind `mmtk landmarks predict`: points of faces in pictures and videos."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from mmtoolkit.core.errors import DataError, UsageError
from mmtoolkit.core.progress import progress_bar
from mmtoolkit.landmarks.data.face import Boxes
from mmtoolkit.landmarks.detection.detect import Detector, as_detector
from mmtoolkit.landmarks.load import Landmarker, as_landmarker
from mmtoolkit.landmarks.prediction.pictures import Prediction, list_pictures, predict_pictures
from mmtoolkit.landmarks.prediction.video import VIDEOS, predict_video, read_video


def predict(
    source: str | Path,
    model: Landmarker | Path | None = None,
    detector: Detector | str | None = "small",
    *,
    box: Boxes | None = None,
    passes: int = 2,
    smooth: bool = True,
    frames: int = 0,
    workers: int | None = None,
) -> Iterator[Prediction]:
    """Locate the points of every face in a picture, a folder, a video or a camera's stream.

    Args:
        source: picture, folder, video, or number of a camera.
        model: a loaded network, a run, a checkpoint or an exported file; None takes the weights that ship.
        detector: finds the faces of pictures without box; a function or a name for
            :func:`mmtoolkit.landmarks.detection.detect.make_detector`.
        box: `(4,)` left, top, right, bottom of the one face of a picture.
        passes: see :func:`mmtoolkit.landmarks.prediction.pictures.find_faces`.
        smooth: filter the points of a video.
        frames: stop a video after so many frames; 0: at its end.
        workers: threads for pictures; None: as many as there are cores.

    Yields:
        One prediction for each picture or frame.

    Raises:
        UsageError: if an option belongs to another kind of source.
        DataError: if there is no such source.
    """
    path, video = Path(source), is_video(source)
    _check_options(video, path, detector, box, passes, smooth, frames, workers)
    landmarker = as_landmarker(model)
    finder = as_detector(detector, landmarker.device.type)
    if video:
        assert finder is not None
        stream = read_video(int(path.name) if path.name.isdecimal() else path, frames)
        yield from predict_video(landmarker, stream, finder, smooth=smooth)
        return
    pictures = list_pictures(path)
    if box is not None:
        pictures = [replace(picture, box=box) for picture in pictures]
    with progress_bar("pictures", len(pictures)) as advance:
        for prediction in predict_pictures(landmarker, pictures, finder, passes=passes, workers=workers):
            advance(f"{len(prediction.faces)} faces")
            yield prediction


def _check_options(
    video: bool,
    path: Path,
    detector: Detector | str | None,
    box: Boxes | None,
    passes: int,
    smooth: bool,
    frames: int,
    workers: int | None,
) -> None:
    """Refuse options that belong to another kind of source."""
    if video:
        if passes != 2 or workers is not None:
            raise UsageError("`passes` and `workers` go with pictures, not with a video")
        if box is not None or detector is None:
            raise UsageError("`box` goes with one picture; a video needs a `detector`")
        if not path.name.isdecimal() and not path.is_file():
            raise DataError(f"{path}: no such video")
    elif frames or not smooth:
        raise UsageError("`frames` and `smooth` go with a video or camera")
    elif box is not None and path.is_dir():
        raise UsageError("`box` goes with one picture")


def is_video(source: str | Path) -> bool:
    """Return whether a source is a video file or the number of a camera rather than pictures."""
    return str(source).isdecimal() or Path(source).suffix.lower() in VIDEOS


def parse_box(text: str) -> Boxes:
    """Read `left,top,right,bottom`.

    Raises:
        UsageError: if these are not four numbers of a box with an area.
    """
    try:
        box = np.array([float(part) for part in text.replace(",", " ").split()], np.float32)
    except ValueError:
        box = np.empty(0, np.float32)
    if box.shape != (4,) or not np.isfinite(box).all() or (box[2:] <= box[:2]).any():
        raise UsageError(f"`box` {text}: write left,top,right,bottom in pixels, as in 40,30,200,210")
    return box
