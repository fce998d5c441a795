"""What the commands do, as plain functions: predict, score, compare, submit."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from mmtoolkit.core.errors import DataError, UsageError
from mmtoolkit.core.progress import progress_bar
from mmtoolkit.landmarks.data.face import Boxes
from mmtoolkit.landmarks.data.images import encode_image
from mmtoolkit.landmarks.data.read import Annotation, read_annotations
from mmtoolkit.landmarks.data.write import new_folder
from mmtoolkit.landmarks.detect import Detector
from mmtoolkit.landmarks.evaluate import ALPHA, Comparison, Evaluation, compare, evaluate, read_predictions
from mmtoolkit.landmarks.load import Landmarker
from mmtoolkit.landmarks.outputs import write_submission
from mmtoolkit.landmarks.points import Points
from mmtoolkit.landmarks.predict import (
    VIDEOS,
    Prediction,
    find_faces,
    list_pictures,
    predict_pictures,
    predict_video,
    read_ahead,
    read_video,
)
from mmtoolkit.landmarks.report import draw_worst, plot_ced


def predict_faces(
    landmarker: Landmarker, truths: Sequence[Annotation], *, passes: int = 1, batch_size: int = 32
) -> dict[str, Points]:
    """Locate the points of labelled faces through their own boxes.

    Args:
        landmarker: the network.
        truths: labelled faces; only their pictures and boxes are used.
        passes: 1 as the protocol has it, 2 looks again through the box of the first pass's points.
        batch_size: faces at once.

    Returns:
        `(106, 2)` by name.
    """
    found: dict[str, Points] = {}
    faces = read_ahead(Annotation.face, truths, workers=1, ahead=2 * batch_size)
    with progress_bar("faces", len(truths)) as advance:
        for start in range(0, len(truths), batch_size):
            block = [next(faces) for _ in truths[start : start + batch_size]]
            boxes = [np.append(face.box, 1).astype(np.float32)[None] for face in block]
            for face, (one,) in zip(
                block, find_faces(landmarker, [face.image for face in block], boxes, passes), strict=True
            ):
                found[face.name] = one.points
                advance("")
    return found


def predictions_of(
    source: Landmarker | Path, truths: Sequence[Annotation], passes: int = 1
) -> dict[str, Points]:
    """Take a network's predictions, or those of a folder or zip."""
    if isinstance(source, Landmarker):
        return predict_faces(source, truths, passes=passes)
    return read_predictions(source)


def score(
    source: Landmarker | Path,
    data: Path,
    *,
    output: Path | None = None,
    alpha: float = ALPHA,
    subset_79: bool = False,
    passes: int = 1,
) -> tuple[Evaluation, list[Path]]:
    """Score a network or ready predictions on a labelled data set.

    Args:
        source: a network, or a folder or zip of predictions.
        data: data set, see :func:`mmtoolkit.landmarks.data.read.read_annotations`.
        output: new folder for the CED plot, the worst faces and the error of each face; None writes nothing.
        alpha: NME of a failure.
        subset_79: score only the third challenge's points.
        passes: see :func:`predict_faces`.

    Returns:
        The figures, and the files written.
    """
    truths = unique_names(read_annotations(data))
    folder = None if output is None else new_folder(output)
    predictions = predictions_of(source, truths, passes)
    evaluation = evaluate(truths, predictions, alpha=alpha, subset_79=subset_79)
    if folder is None:
        return evaluation, []
    worst = folder / "worst.jpg"
    worst.write_bytes(encode_image(draw_worst(truths, predictions, evaluation)))
    errors = folder / "errors.csv"
    rows = [f"{name},{error:.6f}" for name, error in zip(evaluation.names, evaluation.errors, strict=True)]
    errors.write_text("\n".join(["name,nme", *rows]) + "\n", encoding="utf-8")
    return evaluation, [plot_ced({data.name: evaluation.errors}, folder / "ced.png", alpha), worst, errors]


def unique_names(truths: list[Annotation]) -> list[Annotation]:
    """Refuse a data set in which two pictures share a name, as predictions go by it.

    Raises:
        DataError: naming the first.
    """
    seen: set[str] = set()
    for truth in truths:
        if truth.name in seen:
            raise DataError(f"two pictures are called {truth.name}; score their folders one by one")
        seen.add(truth.name)
    return truths


def compare_sources(
    first: Landmarker | Path, second: Landmarker | Path, data: Path, *, alpha: float = ALPHA, seed: int = 0
) -> list[Comparison]:
    """Compare two networks or sets of predictions on a data set by a paired bootstrap."""
    truths = unique_names(read_annotations(data))
    errors = [
        evaluate(truths, predictions_of(source, truths), alpha=alpha).errors for source in (first, second)
    ]
    return compare(errors[0], errors[1], alpha=alpha, seed=seed)


def submit(landmarker: Landmarker, data: Path, output: Path, detector: Detector | None) -> int:
    """Predict a test set (`picture/` and `rect/`) and write the zip to hand in.

    Returns:
        The number of pictures.
    """
    if output.suffix != ".zip" or output.exists():
        raise UsageError(f"--output {output}: name a new file that ends in .zip")
    pictures = list_pictures(data)
    found: dict[str, Points] = {}
    with progress_bar("pictures", len(pictures)) as advance:
        for prediction in predict_pictures(landmarker, pictures, detector):
            if prediction.faces:
                found[Path(prediction.name).name] = prediction.faces[0].points
            advance("")
    write_submission(found, [picture.path.name for picture in pictures], output)
    return len(pictures)


def predict_source(
    landmarker: Landmarker,
    source: str,
    detector: Detector | None,
    *,
    box: Boxes | None = None,
    passes: int = 2,
    smooth: bool = True,
    frames: int = 0,
) -> Iterator[Prediction]:
    """Locate faces in whatever the user named.

    Args:
        landmarker: the network.
        source: picture, folder, video, or number of a camera.
        detector: for what has no box.
        box: `(4,)` box of the one face of a picture.
        passes: see :func:`mmtoolkit.landmarks.predict.find_faces`.
        smooth: filter the points of a video.
        frames: stop a video after so many; 0: at its end.

    Raises:
        UsageError: if a box is given for something else than one picture.
        DataError: if there is no such source.
    """
    path = Path(source)
    is_video = source.isdecimal() or path.suffix.lower() in VIDEOS
    if is_video:
        if box is not None or detector is None:
            raise UsageError("--box goes with one picture; a video needs a --detector")
        if not source.isdecimal() and not path.is_file():
            raise DataError(f"{path}: no such video")
        stream = read_video(int(source) if source.isdecimal() else path, frames)
        yield from predict_video(landmarker, stream, detector, smooth=smooth)
        return
    pictures = list_pictures(path)
    if box is not None:
        if not path.is_file():
            raise UsageError("--box goes with one picture")
        pictures = [type(one)(one.name, one.path, box) for one in pictures]
    with progress_bar("pictures", len(pictures)) as advance:
        for prediction in predict_pictures(landmarker, pictures, detector, passes=passes):
            advance(f"{len(prediction.faces)} faces")
            yield prediction


def parse_box(given: str) -> Boxes:
    """Read `left,top,right,bottom`.

    Raises:
        UsageError: if it is not four numbers of a box with area.
    """
    try:
        box = np.array([float(part) for part in given.replace(",", " ").split()], np.float32)
    except ValueError:
        box = np.empty(0, np.float32)
    if box.shape != (4,) or not np.isfinite(box).all() or (box[2:] <= box[:2]).any():
        raise UsageError(f"--box {given}: write left,top,right,bottom in pixels, as in --box 40,30,200,210")
    return box
