"""The function behind `mmtk landmarks submit`: predict a test set and write the zip for the challenge."""

from pathlib import Path

import numpy as np

from mmtoolkit.core.logging import logger
from mmtoolkit.core.progress import progress_bar
from mmtoolkit.landmarks.data.face import Boxes, Image
from mmtoolkit.landmarks.data.points import Points
from mmtoolkit.landmarks.data.read import unique_names
from mmtoolkit.landmarks.detection.detect import Detector, as_detector, whole_picture
from mmtoolkit.landmarks.load import Landmarker, as_landmarker
from mmtoolkit.landmarks.prediction.pictures import list_pictures, predict_pictures
from mmtoolkit.landmarks.prediction.submission import check_new_zip, write_submission


def submit(
    data: Path,
    output: Path,
    model: Landmarker | Path | None = None,
    detector: Detector | str | None = "small",
) -> int:
    """Predict a test set (`picture/` and `rect/`) and write the zip to submit.

    The protocol requires points for every picture, so a picture without a detected face is used whole.

    Args:
        data: folder of pictures, with their boxes in `rect/`.
        output: new zip.
        model: a loaded network, a run, a checkpoint or an exported file; None takes the weights that ship.
        detector: finds the faces of pictures without box, see :func:`mmtoolkit.landmarks.predict.predict`.

    Returns:
        The number of pictures.

    Raises:
        UsageError: if the zip cannot be written.
        DataError: if a picture cannot be read, or two share a name, which identifies them in the zip.
    """
    check_new_zip(output)
    pictures = list_pictures(data)
    names = [picture.path.name for picture in pictures]
    unique_names(names)
    landmarker = as_landmarker(model)
    finder = as_detector(detector, landmarker.device.type)
    found: dict[str, Points] = {}
    whole = []
    with progress_bar("pictures", len(pictures)) as advance:
        for prediction in predict_pictures(landmarker, pictures, finder and _or_whole(finder)):
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
    """Use the whole picture as the face, with a score of 0, if the detector finds none."""

    def detect(image: Image) -> Boxes:
        boxes = detector(image)
        return boxes if len(boxes) else (whole_picture(image) * [1, 1, 1, 1, 0]).astype(np.float32)

    return detect
