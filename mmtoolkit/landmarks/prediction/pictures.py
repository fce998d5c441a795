"""Locate the points of every face in pictures, folders, videos and from a camera.

Pictures of a folder go through several threads, a few at a time in each: while one thread decodes, another
is in the network. Only the blocks in work are in memory, however many pictures there are.
"""

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
import torch

from mmtoolkit.core.errors import DataError, UsageError
from mmtoolkit.landmarks.data import text
from mmtoolkit.landmarks.data.face import Boxes, Image, intersection_over_union, official_box
from mmtoolkit.landmarks.data.images import PICTURES, crop_squares, from_square, read_image, square_boxes
from mmtoolkit.landmarks.data.points import Points
from mmtoolkit.landmarks.data.pose import head_pose
from mmtoolkit.landmarks.detection.detect import Detector
from mmtoolkit.landmarks.load import Landmarker
from mmtoolkit.landmarks.prediction.smooth import OVERLAP, Tracker

VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v")
"""Suffixes of videos."""
SURE = 0.02
"""Mean score of the points below which a face on video counts as lost.

A network trained on photographs gives real faces 0.04 to 0.13 and the scenery beside them 0.004 to 0.014."""


Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class FoundFace:
    """A face that was found.

    Attributes:
        box: `(4,)` left, top, right, bottom where it was looked for.
        box_score: how sure the detector is; 1 where the box was given.
        points: `(106, 2)` pixels in JD order.
        scores: `(106,)` in [0, 1], how sure the network is of each point.
        pose: yaw, pitch, roll in degrees.
        track: number of the face within a video, -1 elsewhere.
    """

    box: Boxes
    box_score: float
    points: Points
    scores: Points
    pose: tuple[float, float, float]
    track: int = -1


@dataclass(frozen=True)
class Prediction:
    """A picture or frame and its faces, the largest first; none is an empty list.

    Attributes:
        name: of the picture, or the frame's number.
        image: `(height, width, 3)` RGB.
        faces: what was found.
        rate: frames a second of the video, 0 elsewhere.
    """

    name: str
    image: Image
    faces: list[FoundFace]
    rate: float = 0.0


@dataclass(frozen=True)
class Picture:
    """A picture on the disk, and its box where a `.rect` file gives one."""

    name: str
    path: Path
    box: Boxes | None = None


def list_pictures(path: Path) -> list[Picture]:
    """List a picture, or every picture below a folder, sorted.

    Boxes come from `<picture>.rect` beside it, or in `rect/` beside a folder `picture/`.

    Raises:
        DataError: if there is no picture, or a `.rect` file is malformed.
    """
    if not path.exists():
        raise DataError(f"{path}: no such picture, folder or video")
    files = [path] if path.is_file() else sorted(f for f in path.rglob("*") if _is_picture(f, path))
    if not files:
        raise DataError(f"no picture in it ({', '.join(PICTURES)})", path=path)
    root = path.parent if path.is_file() else path
    return [Picture(file.relative_to(root).as_posix(), file, _box_beside(file)) for file in files]


def _is_picture(file: Path, root: Path) -> bool:
    """Tell pictures by their suffix; what is hidden, or lies in something hidden below `root`, is none."""
    hidden = any(part.startswith(".") for part in file.relative_to(root).parts)
    return file.suffix.lower() in PICTURES and not hidden


def _box_beside(file: Path) -> Boxes | None:
    beside = [file.with_name(f"{file.name}.rect"), file.with_suffix(".rect")]
    if file.parent.name == "picture":
        beside.append(file.parent.parent / "rect" / f"{file.name}.rect")
    return next((text.read_rect(place) for place in beside if place.is_file()), None)


def find_faces(
    landmarker: Landmarker, images: Sequence[Image], boxes: Sequence[Boxes], passes: int = 2
) -> list[list[FoundFace]]:
    """Locate the points of the faces in some pictures, all in one batch.

    Args:
        landmarker: the network.
        images: RGB pictures.
        boxes: for each picture `(n, 5)` boxes and scores.
        passes: 2 looks again through the box of the first pass's points.

    Returns:
        For each picture its faces, the largest first.
    """
    owners = [number for number, some in enumerate(boxes) for _ in some]
    found: list[list[FoundFace]] = [[] for _ in images]
    if not owners:
        return found
    given = np.concatenate([some for some in boxes if len(some)]).astype(np.float32)
    looked, size = given[:, :4], landmarker.settings.size
    points = scores = np.empty((0, 106, 2), np.float32)
    for number in range(passes):
        if number:
            looked = np.stack([official_box(points[row]) for row in range(len(points))])
        squares = square_boxes(looked, landmarker.settings.box_scale)
        crops = np.empty((len(owners), size, size, 3), np.uint8)
        for row, owner in enumerate(owners):
            crop_squares(images[owner], squares[row : row + 1], size, crops[row : row + 1])
        shares, scores = landmarker.locate(crops)
        points = from_square(shares, squares)
    for row, owner in enumerate(owners):
        one: Points = points[row]
        face = FoundFace(given[row, :4], float(given[row, 4]), one, scores[row], head_pose(one))
        found[owner].append(face)
    return [sorted(faces, key=lambda face: -float(np.prod(np.ptp(face.points, axis=0)))) for faces in found]


def predict_pictures(
    landmarker: Landmarker,
    pictures: Sequence[Picture],
    detector: Detector | None,
    *,
    passes: int = 2,
    batch_size: int = 4,
    workers: int | None = None,
) -> Iterator[Prediction]:
    """Locate the points in pictures, in order.

    Args:
        landmarker: the network.
        pictures: from :func:`list_pictures`; a box that comes with a picture is used as it is.
        detector: for pictures without a box; None if all have one.
        passes: see :func:`find_faces`.
        batch_size: pictures whose faces go through the network at once; as many are in memory for each
            worker, and larger ones are hardly quicker.
        workers: threads, each of which reads, detects and locates whole blocks; None: as many as there are
            cores.

    Raises:
        DataError: if a file is no picture, or its box lies beside it.
        UsageError: if a picture has no box and there is no detector.
    """

    def prepare(picture: Picture) -> tuple[str, Image, Boxes]:
        image = read_image(picture.path)
        if picture.box is not None:
            height, width = image.shape[:2]
            if (picture.box[:2] >= [width, height]).any() or (picture.box[2:] <= 0).any():
                raise DataError(f"its box lies beside the picture of {width} x {height}", path=picture.path)
            return picture.name, image, np.append(picture.box, 1).astype(np.float32)[None]
        if detector is None:
            raise UsageError(f"{picture.path}: no .rect file gives its box; choose a --detector")
        return picture.name, image, detector(image)

    def locate(block: Sequence[Picture]) -> list[Prediction]:
        names, images, boxes = zip(*map(prepare, block), strict=True)
        found = find_faces(landmarker, images, boxes, passes)
        return [Prediction(*one) for one in zip(names, images, found, strict=True)]

    blocks = [pictures[start : start + batch_size] for start in range(0, len(pictures), batch_size)]
    workers = workers or core_count()
    for predictions in read_ahead(locate, blocks, workers, ahead=workers + 1):
        yield from predictions


def core_count() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def read_ahead(
    work: Callable[[Item], Result], items: Iterable[Item], workers: int, ahead: int
) -> Iterator[Result]:
    """Apply `work` to items in threads, at most `ahead` of them before they are asked for; in order."""
    # the workers share the cores already: torch's own threads on top of them would only get in the way
    start = None if workers == 1 else lambda: torch.set_num_threads(1)
    with ThreadPoolExecutor(workers, initializer=start) as pool:
        rest = iter(items)
        waiting = [pool.submit(work, item) for item in itertools.islice(rest, ahead)]
        try:
            while waiting:
                result = waiting.pop(0).result()
                waiting += [pool.submit(work, item) for item in itertools.islice(rest, 1)]
                yield result
        finally:
            for future in waiting:
                future.cancel()


def read_video(source: Path | int, limit: int = 0) -> Iterator[tuple[float, Image]]:
    """Read the frames of a video file, or of the camera with a number, with the rate in Hz.

    Args:
        source: file or number of a camera.
        limit: stop after so many frames; 0: at the end.

    Raises:
        DataError: if it cannot be opened or holds no frame.
    """
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # what is wrong is said below, once
    capture = cv2.VideoCapture(source if isinstance(source, int) else str(source))
    try:
        rate = capture.get(cv2.CAP_PROP_FPS) or 30.0
        for number in itertools.count():
            there, frame = capture.read()
            if not there:
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

    Between detections, and where a detection misses it, a face is looked for in the box of its last points;
    one whose points have become unsure is dropped and looked for anew.

    Args:
        landmarker: the network.
        frames: from :func:`read_video`.
        detector: finds new faces.
        smooth: filter the points, see :class:`mmtoolkit.landmarks.prediction.smooth.OneEuroFilter`.
        detect_every: frames from one detection to the next.
    """
    tracker, known = Tracker(smooth=smooth), np.empty((0, 5), np.float32)
    for number, (rate, image) in enumerate(frames):
        tracker.rate = rate
        fresh = number % detect_every == 0 or not len(known)
        boxes = join_boxes(detector(image), known) if fresh else known
        passes = 2 if fresh else 1
        faces = [f for f in find_faces(landmarker, [image], [boxes], passes)[0] if f.scores.mean() > SURE]
        raw = np.stack([f.points for f in faces]) if faces else np.empty((0, 106, 2), np.float32)
        numbers, points = tracker.update(raw)
        # the raw points place the next box: a filtered one lags behind
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
