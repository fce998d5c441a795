"""Locate the points of every face in pictures.

Several threads process blocks of a few pictures each: while one thread decodes, another runs the network.
Memory holds only the blocks in progress, whatever the number of pictures.
"""

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from mmtoolkit.core.errors import DataError, UsageError
from mmtoolkit.landmarks.data import text
from mmtoolkit.landmarks.data.face import Boxes, Image, official_box
from mmtoolkit.landmarks.data.images import PICTURES, crop_squares, from_square, read_image, square_boxes
from mmtoolkit.landmarks.data.points import Points
from mmtoolkit.landmarks.data.pose import head_pose
from mmtoolkit.landmarks.detection.detect import Detector
from mmtoolkit.landmarks.load import Landmarker

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class FoundFace:
    """A face that was found.

    Attributes:
        box: `(4,)` left, top, right, bottom in which it was searched.
        box_score: confidence of the detector; 1 for a given box.
        points: `(106, 2)` pixels in JD order.
        scores: `(106,)` in [0, 1], confidence of the network in each point.
        pose: yaw, pitch, roll in degrees.
        track: number of the face within a video, -1 for pictures.
    """

    box: Boxes
    box_score: float
    points: Points
    scores: Points
    pose: tuple[float, float, float]
    track: int = -1


@dataclass(frozen=True)
class Prediction:
    """A picture or frame and its faces, the largest first; the list is empty if there is none.

    Attributes:
        name: name of the picture, or number of the frame.
        image: `(height, width, 3)` RGB.
        faces: the faces found.
        rate: frames per second of the video, 0 for pictures.
    """

    name: str
    image: Image
    faces: list[FoundFace]
    rate: float = 0.0


@dataclass(frozen=True)
class Picture:
    """A picture file, and its box if a `.rect` file gives one."""

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
    """Return whether a file has a picture's suffix and neither it nor a folder below `root` is hidden."""
    hidden = any(part.startswith(".") for part in file.relative_to(root).parts)
    return file.suffix.lower() in PICTURES and not hidden


def _box_beside(file: Path) -> Boxes | None:
    beside = [file.with_name(f"{file.name}.rect"), file.with_suffix(".rect")]
    if file.parent.name == "picture":
        beside.append(file.parent.parent / "rect" / f"{file.name}.rect")
    return next((text.read_rect(path) for path in beside if path.is_file()), None)


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
    # one row for each face of any picture, so that all faces go through the network in one batch
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
        pictures: from :func:`list_pictures`; a given box is used unchanged.
        detector: for pictures without a box; None if all have one.
        passes: see :func:`find_faces`.
        batch_size: pictures whose faces share a batch; each worker holds that many in memory, and larger
            batches are hardly faster.
        workers: threads, each of which reads, detects and locates whole blocks; None: one per core.

    Raises:
        DataError: if a file is no picture, or its box is outside of it.
        UsageError: if a picture has no box and there is no detector.
    """

    def prepare(picture: Picture) -> tuple[str, Image, Boxes]:
        image = read_image(picture.path)
        if picture.box is not None:
            height, width = image.shape[:2]
            if (picture.box[:2] >= [width, height]).any() or (picture.box[2:] <= 0).any():
                raise DataError(f"its box is outside the picture of {width} x {height}", path=picture.path)
            return picture.name, image, np.append(picture.box, 1).astype(np.float32)[None]
        if detector is None:
            raise UsageError(f"{picture.path}: no .rect file gives its box; choose a `detector`")
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
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def read_ahead(
    work: Callable[[Item], Result], items: Iterable[Item], workers: int, ahead: int
) -> Iterator[Result]:
    """Apply `work` to items in threads and yield the results in order, with at most `ahead` in progress."""
    # the workers already occupy all cores: torch's own threads would compete with them
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
