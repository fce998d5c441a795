"""Locate and follow faces in videos and camera streams."""

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np

from mmtoolkit.core.errors import DataError
from mmtoolkit.landmarks.data.face import Boxes, Image, intersection_over_union, official_box
from mmtoolkit.landmarks.data.pose import head_pose
from mmtoolkit.landmarks.detection.detect import Detector
from mmtoolkit.landmarks.load import Landmarker
from mmtoolkit.landmarks.prediction.pictures import FoundFace, Prediction, find_faces
from mmtoolkit.landmarks.prediction.smooth import OVERLAP, Tracker

VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v")
"""Suffixes of videos."""
LEAST_SCORE = 0.02
"""Mean score of the points below which a face on video counts as lost.

A network trained on photographs gives real faces 0.04 to 0.13 and the scenery beside them 0.004 to 0.014."""


def read_video(source: Path | int, limit: int = 0) -> Iterator[tuple[float, Image]]:
    """Yield the frames of a video file or a camera, each with the frame rate in Hz.

    Args:
        source: file or number of a camera.
        limit: stop after so many frames; 0: at the end.

    Raises:
        DataError: if it cannot be opened or holds no frame.
    """
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # the error below is enough
    capture = cv2.VideoCapture(source if isinstance(source, int) else str(source))
    try:
        rate = capture.get(cv2.CAP_PROP_FPS) or 30.0
        for number in itertools.count():
            success, frame = capture.read()
            if not success:
                if not number:
                    what = f"camera {source}" if isinstance(source, int) else str(source)
                    raise DataError(f"{what}: cannot be opened as a video, or holds no frame")
                return
            yield rate, cv2.cvtColor(frame, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)
            if number + 1 == limit:
                return
    finally:
        capture.release()


def predict_video(
    landmarker: Landmarker,
    frames: Iterable[tuple[float, Image]],
    detector: Detector,
    *,
    smooth: bool = True,
    detect_every: int = 10,
) -> Iterator[Prediction]:
    """Locate and follow the faces of a video.

    Between detections, and if a detection misses it, a face is searched in the box of its last points. A face
    whose points score below :data:`LEAST_SCORE` is dropped until the next detection.

    Args:
        landmarker: the network.
        frames: from :func:`read_video`.
        detector: finds new faces.
        smooth: filter the points, see :class:`mmtoolkit.landmarks.prediction.smooth.OneEuroFilter`.
        detect_every: frames from one detection to the next.
    """
    # detection is the slowest stage: a face that is followed costs one pass of the landmark network
    tracker, known = Tracker(smooth=smooth), np.empty((0, 5), np.float32)
    for number, (rate, image) in enumerate(frames):
        tracker.rate = rate
        fresh = number % detect_every == 0 or not len(known)
        boxes = join_boxes(detector(image), known) if fresh else known
        passes = 2 if fresh else 1
        found = find_faces(landmarker, [image], [boxes], passes)[0]
        faces = [face for face in found if face.scores.mean() > LEAST_SCORE]
        raw = np.stack([f.points for f in faces]) if faces else np.empty((0, 106, 2), np.float32)
        numbers, points = tracker.update(raw)
        # the next box follows the raw points, as filtered ones lag behind
        known = np.array([[*official_box(f.points), f.box_score] for f in faces], np.float32).reshape(-1, 5)
        followed = [
            FoundFace(face.box, face.box_score, one, face.scores, head_pose(one), track)
            for face, one, track in zip(faces, points, numbers, strict=True)
        ]
        yield Prediction(f"{number:06d}", image, followed, rate)


def join_boxes(found: Boxes, known: Boxes) -> Boxes:
    """Add the known boxes `(n, 5)` that overlap none of the found ones `(m, 5)`."""
    missed = [
        box for box in known if all(intersection_over_union(box[:4], one[:4]) < OVERLAP for one in found)
    ]
    return np.concatenate([found, np.array(missed, np.float32).reshape(-1, 5)])
