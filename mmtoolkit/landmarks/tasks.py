"""What the commands do, as plain functions: predict, score, compare, submit."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from mmtoolkit.core.errors import DataError, UsageError
from mmtoolkit.core.logging import logger
from mmtoolkit.core.progress import progress_bar
from mmtoolkit.landmarks.config import LandmarkSettings
from mmtoolkit.landmarks.data.batches import VALIDATION_SEED, watch
from mmtoolkit.landmarks.data.face import Boxes, Image
from mmtoolkit.landmarks.data.images import encode_image
from mmtoolkit.landmarks.data.points import Points
from mmtoolkit.landmarks.data.read import Annotation, read_annotations, unique_names
from mmtoolkit.landmarks.data.synthetic import render_faces
from mmtoolkit.landmarks.data.write import check_new, whole_folder, write_jd
from mmtoolkit.landmarks.detection.detect import Detector, whole_picture
from mmtoolkit.landmarks.evaluation.metrics import (
    ALPHA,
    Comparison,
    Evaluation,
    compare,
    evaluate,
    read_predictions,
)
from mmtoolkit.landmarks.load import Landmarker
from mmtoolkit.landmarks.prediction.outputs import check_new_zip, write_submission
from mmtoolkit.landmarks.prediction.pictures import (
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

RENDERED = "rendered validation faces"
"""Names the data set of :func:`labelled_faces` that nobody named."""


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
    data: Path | None = None,
    *,
    output: Path | None = None,
    alpha: float = ALPHA,
    subset_79: bool = False,
    passes: int = 1,
) -> tuple[Evaluation, list[Path]]:
    """Score a network or ready predictions on a labelled data set.

    Args:
        source: a network, or a folder or zip of predictions.
        data: data set, see :func:`labelled_faces`.
        output: new folder for the CED plot, the worst faces and the error of each face; None writes nothing.
        alpha: NME of a failure.
        subset_79: score only the third challenge's points.
        passes: see :func:`predict_faces`.

    Returns:
        The figures, and the files written.

    Raises:
        DataError: if data or predictions cannot be used; nothing is written then.
        UsageError: if the output folder is not empty, or ready predictions come without their data set.
    """
    _check_scoring(source, data, alpha)
    if output is not None:
        check_new(output)
    with labelled_faces(data) as truths:
        predictions = predictions_of(source, truths, passes)
        evaluation = evaluate(truths, predictions, alpha=alpha, subset_79=subset_79)
        if output is None:
            return evaluation, []
        with whole_folder(output) as folder:
            worst = encode_image(draw_worst(truths, predictions, evaluation))
            (folder / "worst.jpg").write_bytes(worst)
            errors = zip(evaluation.names, evaluation.errors, strict=True)
            rows = ["name,nme", *(f"{name},{error:.6f}" for name, error in errors)]
            (folder / "errors.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
            plot_ced({data.name if data else RENDERED: evaluation.errors}, folder / "ced.png", alpha)
    return evaluation, [output / name for name in ("ced.png", "worst.jpg", "errors.csv")]


def _check_scoring(source: Landmarker | Path, data: Path | None, alpha: float) -> None:
    if not math.isfinite(alpha):
        raise UsageError(f"--alpha {alpha}: write an NME, as in --alpha 0.08")
    if data is None and not isinstance(source, Landmarker):
        raise UsageError(f"{source}: name the --data that these predictions are of")


@contextmanager
def labelled_faces(data: Path | None) -> Iterator[list[Annotation]]:
    """Read a data set to score on; None renders one, the same every time and none that training sees.

    Raises:
        DataError: if it cannot be used, or pictures share a name, as predictions go by it.
    """
    if data is not None:
        truths = read_annotations(data)
        unique_names(truth.name for truth in truths)
        yield truths
        return
    settings = LandmarkSettings()
    count, seed = settings.data.rendered_validation, settings.seed + VALIDATION_SEED
    with TemporaryDirectory() as name:
        folder = Path(name) / "rendered"
        write_jd(folder, watch(render_faces(count, seed=seed), "rendering", count))
        yield read_annotations(folder)


def compare_sources(
    first: Landmarker | Path,
    second: Landmarker | Path,
    data: Path | None = None,
    *,
    alpha: float = ALPHA,
    seed: int = 0,
) -> list[Comparison]:
    """Compare two networks or sets of predictions on a data set by a paired bootstrap.

    Args:
        first: a network, or a folder or zip of predictions.
        second: likewise.
        data: see :func:`labelled_faces`.
        alpha: NME of a failure.
        seed: of the bootstrap.
    """
    sources = (first, second)
    for source in sources:
        _check_scoring(source, data, alpha)
    with labelled_faces(data) as truths:
        errors = [evaluate(truths, predictions_of(source, truths), alpha=alpha).errors for source in sources]
    return compare(errors[0], errors[1], alpha=alpha, seed=seed)


def submit(landmarker: Landmarker, data: Path, output: Path, detector: Detector | None) -> int:
    """Predict a test set (`picture/` and `rect/`) and write the zip to hand in.

    A picture in which no face is found is taken as a face itself: the protocol wants points for each.

    Returns:
        The number of pictures.

    Raises:
        UsageError: if the zip cannot be written.
        DataError: if a picture cannot be read, or two share a name, as the zip goes by it.
    """
    check_new_zip(output)
    pictures = list_pictures(data)
    names = [picture.path.name for picture in pictures]
    unique_names(names)
    found: dict[str, Points] = {}
    whole = []
    finder = None if detector is None else _or_whole(detector)
    with progress_bar("pictures", len(pictures)) as advance:
        for prediction in predict_pictures(landmarker, pictures, finder):
            face, name = prediction.faces[0], Path(prediction.name).name
            found[name] = face.points
            if face.box_score == 0:
                whole.append(name)
            advance("")
    if whole:
        logger.warning("no face found in %d pictures, taken whole; the first is %s", len(whole), whole[0])
    write_submission(found, names, output)
    return len(pictures)


def _or_whole(detector: Detector) -> Detector:
    """Take the picture itself as the face, with a score of 0, where a detector finds none."""

    def detect(image: Image) -> Boxes:
        boxes = detector(image)
        return boxes if len(boxes) else (whole_picture(image) * [1, 1, 1, 1, 0]).astype(np.float32)

    return detect


def predict_source(
    landmarker: Landmarker,
    source: str,
    detector: Detector | None,
    *,
    box: Boxes | None = None,
    passes: int = 2,
    smooth: bool = True,
    frames: int = 0,
    workers: int | None = None,
) -> Iterator[Prediction]:
    """Locate faces in whatever the user named.

    Args:
        landmarker: the network.
        source: picture, folder, video, or number of a camera.
        detector: for what has no box.
        box: `(4,)` box of the one face of a picture.
        passes: see :func:`mmtoolkit.landmarks.prediction.pictures.find_faces`.
        smooth: filter the points of a video.
        frames: stop a video after so many; 0: at its end.
        workers: threads for pictures; None: as many as there are cores.

    Raises:
        UsageError: if an option goes with another kind of source.
        DataError: if there is no such source.
    """
    path = Path(source)
    if is_video(source):
        if passes != 2 or workers is not None:
            raise UsageError("--passes and --workers go with pictures, not with a video")
        if box is not None or detector is None:
            raise UsageError("--box goes with one picture; a video needs a --detector")
        if not source.isdecimal() and not path.is_file():
            raise DataError(f"{path}: no such video")
        stream = read_video(int(source) if source.isdecimal() else path, frames)
        yield from predict_video(landmarker, stream, detector, smooth=smooth)
        return
    if frames or not smooth:
        raise UsageError("--frames and --no-smooth go with a video or camera")
    pictures = list_pictures(path)
    if box is not None:
        if not path.is_file():
            raise UsageError("--box goes with one picture")
        pictures = [type(one)(one.name, one.path, box) for one in pictures]
    with progress_bar("pictures", len(pictures)) as advance:
        for prediction in predict_pictures(landmarker, pictures, detector, passes=passes, workers=workers):
            advance(f"{len(prediction.faces)} faces")
            yield prediction


def is_video(source: str) -> bool:
    """Tell a video file or the number of a camera from pictures."""
    return source.isdecimal() or Path(source).suffix.lower() in VIDEOS


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
