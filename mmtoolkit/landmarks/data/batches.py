"""Faces to train and to validate on: read or rendered once, cut out, then drawn in batches."""

import hashlib
import itertools
import re
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mmtoolkit.core.errors import DataError
from mmtoolkit.core.progress import progress_bar
from mmtoolkit.landmarks.config import DataSettings, LandmarkSettings, ModelSettings
from mmtoolkit.landmarks.data.augment import (
    Batch,
    Crops,
    draw_probabilities,
    join_crops,
    make_batch,
    store_crops,
)
from mmtoolkit.landmarks.data.face import Face
from mmtoolkit.landmarks.data.images import crop_squares, square_boxes
from mmtoolkit.landmarks.data.read import Annotation, read_annotations

RENDERED_SCALE = 2
"""Side of a rendered picture over that of the network's input."""
VALIDATION_SEED = 1_000_003
"""Added to the seed for the rendered faces of validation."""


@dataclass(frozen=True)
class Validation:
    """Faces to validate on, cut out by their boxes.

    Attributes:
        truths: labels.
        crops: `(n, size, size, 3)` uint8.
        squares: `(n, 3)` left, top and side of the crops.
    """

    truths: list[Annotation]
    crops: NDArray[np.uint8]
    squares: NDArray[np.float32]


def split_photos(data: DataSettings) -> tuple[list[Annotation], list[Annotation]]:
    """Read the photographs and hold some out for validation, chosen by a hash of their names.

    The turned views that `mmtk landmarks complete` makes of a photograph stay in the same part.
    """
    photos = [item for path in data.path for item in read_annotations(path)]
    if data.validation:
        return photos, [item for path in data.validation for item in read_annotations(path)]
    names = [re.sub(r"(_turned\d+)?\.\w+$", "", item.name) for item in photos]
    held = [zlib.crc32(name.encode()) < data.holdout * 2**32 for name in names]
    train = [item for item, out in zip(photos, held, strict=True) if not out]
    if photos and not train:
        raise DataError("every photograph would be held out for validation; lower data.holdout")
    return train, [item for item, out in zip(photos, held, strict=True) if out]


def training_crops(settings: LandmarkSettings, photos: list[Annotation]) -> Crops:
    """Cut out the photographs and render the other faces."""
    data, model = settings.data, settings.model
    parts = []
    if photos:
        faces = (item.face() for item in photos)
        parts.append(store_crops(watch(faces, "reading", len(photos)), len(photos), model, rendered=False))
    if data.rendered:
        rendered = _render(data.rendered, model, settings.seed)
        parts.append(
            store_crops(watch(rendered, "rendering", data.rendered), data.rendered, model, rendered=True)
        )
    return join_crops(parts)


def validation_faces(settings: LandmarkSettings, held_out: list[Annotation]) -> Validation:
    """Cut out the faces to validate on; rendered ones if there are no photographs."""
    if held_out:
        faces: Iterator[Face] = (item.face() for item in held_out)
    else:
        seed = settings.seed + VALIDATION_SEED
        faces = _render(max(1, settings.data.rendered_validation), settings.model, seed)
    truths, crops, squares = [], [], []
    for number, face in enumerate(faces):
        square = square_boxes(face.box[None], settings.model.box_scale)
        truth = held_out[number] if held_out else Annotation.of(face)
        truths.append(replace(truth, name=f"{number}_{face.name}"))  # several sets may share names
        squares.append(square)
        crops.append(crop_squares(face.image, square, settings.model.size))
    return Validation(truths, np.concatenate(crops), np.concatenate(squares))


def _render(count: int, model: ModelSettings, seed: int) -> Iterator[Face]:
    from mmtoolkit.landmarks.data.synthetic import render_faces

    return render_faces(count, RENDERED_SCALE * model.size, seed)


def watch(faces: Iterator[Face], what: str, count: int) -> Iterator[Face]:
    """Show a progress bar while faces come."""
    with progress_bar(f"{what} faces", count) as advance:
        for face in faces:
            advance("")
            yield face


def draw_batches(
    crops: Crops, settings: LandmarkSettings, epoch: int, count: int, process: tuple[int, int]
) -> Iterator[tuple[Batch, float]]:
    """Draw an epoch's batches, each with the sum of its weights; the next is prepared while one is used.

    Every draw depends only on the seed, the epoch and the step, so that a resumed run has the same bits.

    Args:
        crops: the faces.
        settings: all settings.
        epoch: from 1.
        count: faces to draw, a whole number of batches.
        process: number of this process and of all processes; each gets its share of every batch.
    """
    rng = np.random.default_rng([settings.seed, epoch])
    chances = draw_probabilities(crops, settings.data.pose_balance, settings.data.rendered_share)
    drawn = _spread(chances, count, rng)
    size = settings.train.batch_size
    share = size // process[1]
    part = slice(share * process[0], share * (process[0] + 1))

    def make(number: int) -> tuple[Batch, float]:
        rows = drawn[number * size : (number + 1) * size]
        draws = np.random.default_rng([settings.seed, epoch, number])
        batch = make_batch(crops, rows, settings.model, settings.augment, draws, part)
        return batch, float(crops.weights[rows].sum())

    with ThreadPoolExecutor(1) as pool:
        numbers = iter(range(len(drawn) // size))
        waiting = [pool.submit(make, number) for number in itertools.islice(numbers, 2)]
        while waiting:
            ready = waiting.pop(0).result()
            waiting += [pool.submit(make, number) for number in itertools.islice(numbers, 1)]
            yield ready


def _spread(chances: NDArray[np.float64], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw `count` rows by systematic sampling: each comes as often as expected, up to one more or less.

    Independent draws would leave out a third of the faces in an epoch.
    """
    positions = (np.arange(count) + rng.random()) / count
    order = rng.permutation(len(chances))
    rows = order[np.searchsorted(np.cumsum(chances[order]), positions).clip(max=len(chances) - 1)]
    return rng.permutation(rows)


def fingerprint(crops: Crops) -> str:
    """Hash the labels and some pixels, to recognise the faces of a checkpoint."""
    digest = hashlib.sha256(crops.points.tobytes())
    digest.update(crops.weights.tobytes())
    digest.update(np.ascontiguousarray(crops.images[:, ::16, ::16]).tobytes())
    return digest.hexdigest()[:16]
