"""The function behind `mmtk landmarks eval`: score a network or ready predictions on labelled faces."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from mmtoolkit.core.errors import UsageError
from mmtoolkit.core.progress import progress_bar
from mmtoolkit.core.run import check_new
from mmtoolkit.landmarks.config import LandmarkSettings
from mmtoolkit.landmarks.data.batches import VALIDATION_SEED, watch
from mmtoolkit.landmarks.data.images import encode_image
from mmtoolkit.landmarks.data.points import Points
from mmtoolkit.landmarks.data.read import Annotation, read_annotations, unique_names
from mmtoolkit.landmarks.data.synthetic import render_faces
from mmtoolkit.landmarks.data.write import whole_folder, write_jd
from mmtoolkit.landmarks.evaluation.metrics import ALPHA, Evaluation, read_predictions, score_faces
from mmtoolkit.landmarks.load import Landmarker, is_network, load
from mmtoolkit.landmarks.prediction.pictures import find_faces, read_ahead
from mmtoolkit.landmarks.report import draw_worst, plot_ced

RENDERED = "rendered validation faces"
"""Name of the data set that :func:`labelled_faces` renders."""
FILES = ("ced.png", "worst.jpg", "errors.csv")
"""What :func:`evaluate` writes to its output folder."""

Source = Landmarker | Path | None
"""A loaded network, a run, a checkpoint, an exported file, or a folder or zip of predictions.

None means the weights that ship with the package.
"""


def evaluate(
    source: Source = None,
    data: Path | None = None,
    *,
    output: Path | None = None,
    alpha: float = ALPHA,
    subset_79: bool = False,
    passes: int = 1,
) -> Evaluation:
    """Score a network or ready predictions by the challenge's protocol.

    Args:
        source: what to score, see :data:`Source`.
        data: data set, see :func:`labelled_faces`.
        output: new folder for the files :data:`FILES`: cumulative errors, worst faces and the error of each
            face; None writes nothing.
        alpha: NME of a failure.
        subset_79: score only the 79 points of the third challenge.
        passes: see :func:`predict_faces`.

    Raises:
        DataError: if data or predictions cannot be used; nothing is written then.
        UsageError: if the output folder is not empty, or ready predictions come without their data set.
    """
    source = open_source(source, data, alpha)
    if output is not None:
        check_new(output)
    with labelled_faces(data) as truths:
        predictions = predictions_of(source, truths, passes)
        evaluation = score_faces(truths, predictions, alpha=alpha, subset_79=subset_79)
        if output is not None:
            name = data.name if data else RENDERED
            _write_files(output, name, truths, predictions, evaluation, alpha)
    return evaluation


def _write_files(
    output: Path,
    name: str,
    truths: Sequence[Annotation],
    predictions: Mapping[str, Points],
    evaluation: Evaluation,
    alpha: float,
) -> None:
    with whole_folder(output) as folder:
        worst = encode_image(draw_worst(truths, predictions, evaluation))
        (folder / "worst.jpg").write_bytes(worst)
        errors = zip(evaluation.names, evaluation.errors, strict=True)
        rows = ["name,nme", *(f"{face},{error:.6f}" for face, error in errors)]
        (folder / "errors.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
        plot_ced({name: evaluation.errors}, folder / "ced.png", alpha)


def open_source(source: Source, data: Path | None, alpha: float) -> Landmarker | Path:
    """Load the network if the source is one; leave ready predictions unread.

    Raises:
        UsageError: if alpha is not finite, or ready predictions come without their data set.
    """
    if not math.isfinite(alpha):
        raise UsageError(f"`alpha` {alpha}: write an NME, as in 0.08")
    if source is None or (isinstance(source, Path) and is_network(source)):
        return load(source)
    if data is None and isinstance(source, Path):
        raise UsageError(f"{source}: name the data set of these predictions with `data`")
    return source


@contextmanager
def labelled_faces(data: Path | None) -> Iterator[list[Annotation]]:
    """Read a data set to score on; None renders a fixed one that shares no face with training.

    Raises:
        DataError: if it cannot be used, or pictures share a name, by which predictions are matched.
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


def predictions_of(
    source: Landmarker | Path, truths: Sequence[Annotation], passes: int = 1
) -> Mapping[str, Points]:
    """Return the predictions of a network, or those of a folder or zip, `(106, 2)` by name."""
    if isinstance(source, Landmarker):
        return predict_faces(source, truths, passes=passes)
    return read_predictions(source)


def predict_faces(
    landmarker: Landmarker, truths: Sequence[Annotation], *, passes: int = 1, batch_size: int = 32
) -> dict[str, Points]:
    """Locate the points of labelled faces through their own boxes.

    Args:
        landmarker: the network.
        truths: labelled faces; only their pictures and boxes are used.
        passes: 1 follows the protocol, 2 looks again through the box of the first pass's points.
        batch_size: faces in a batch.

    Returns:
        `(106, 2)` by name.
    """
    found: dict[str, Points] = {}
    faces = read_ahead(Annotation.face, truths, workers=1, ahead=2 * batch_size)
    with progress_bar("faces", len(truths)) as advance:
        for start in range(0, len(truths), batch_size):
            block = [next(faces) for _ in truths[start : start + batch_size]]
            boxes = [np.append(face.box, 1).astype(np.float32)[None] for face in block]
            images = [face.image for face in block]
            for face, (one,) in zip(block, find_faces(landmarker, images, boxes, passes), strict=True):
                found[face.name] = one.points
                advance("")
    return found
