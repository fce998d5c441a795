"""Training crops in memory, and the random changes of each batch.

Faces are cut out once, wider than the network sees them. A batch is warped to the input size in one pass (box
jitter, rotation, mirroring), then covered, blurred and recoloured, all on bytes.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmtoolkit.landmarks.config import AugmentSettings, ModelSettings
from mmtoolkit.landmarks.data.face import (
    BOX_HEIGHT,
    BOX_SHIFT_X,
    BOX_SHIFT_Y,
    BOX_WIDTH,
    Boxes,
    Face,
    Image,
    enclosing_box,
    official_box,
)
from mmtoolkit.landmarks.data.images import crop_squares, square_boxes, to_square
from mmtoolkit.landmarks.data.points import FLIP, Points
from mmtoolkit.landmarks.data.pose import head_pose

REGION = 1.35
"""Side of a stored crop divided by that of the network's square for an average box."""
STORED = 1.5
"""Side of a stored crop in pixels divided by that of the network's input."""


@dataclass(frozen=True)
class Crops:
    """Faces cut out and kept as bytes.

    Attributes:
        images: `(n, side, side, 3)` uint8.
        points: `(n, 106, 2)` in pixels of the stored crop.
        weights: `(n, 106)`.
        boxes: `(n, 4)` around the labelled points, in pixels of the stored crop.
        yaw: `(n,)` degrees.
        rendered: `(n,)` true for rendered faces, false for photographs.
    """

    images: NDArray[np.uint8]
    points: Points
    weights: Points
    boxes: Boxes
    yaw: Points
    rendered: NDArray[np.bool_]

    def __len__(self) -> int:
        """Return the number of faces."""
        return len(self.images)


def store_crops(faces: Iterable[Face], count: int, settings: ModelSettings, *, rendered: bool) -> Crops:
    """Cut out faces and store the crops.

    Args:
        faces: `count` faces, which are read one by one.
        count: number of faces.
        settings: settings of the model, for its input size.
        rendered: whether the faces are rendered rather than photographs.
    """
    side = round(STORED * settings.size)
    images = np.empty((count, side, side, 3), np.uint8)
    points, weights = np.zeros((count, 106, 2), np.float32), np.zeros((count, 106), np.float32)
    boxes, yaw = np.zeros((count, 4), np.float32), np.zeros(count, np.float32)
    for row, face in enumerate(faces):
        box = official_box(face.points, face.weights)[None]
        square = square_boxes(box, REGION * settings.box_scale)
        crop_squares(face.image, square, side, images[row : row + 1])
        points[row] = to_square(face.points[None], square)[0] * side - 0.5
        weights[row] = face.weights
        boxes[row] = enclosing_box(points[row], face.weights)
        yaw[row] = head_pose(face.points, face.weights)[0] if face.yaw is None else face.yaw
    return Crops(images, points, weights, boxes, yaw, np.full(count, rendered))


def join_crops(parts: list[Crops]) -> Crops:
    """Concatenate sets of crops."""
    if len(parts) == 1:
        return parts[0]
    names = ("images", "points", "weights", "boxes", "yaw", "rendered")
    return Crops(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def draw_probabilities(crops: Crops, pose_balance: float, rendered_share: float) -> NDArray[np.float64]:
    """Return the probability of each face, `(n,)`, summing to 1.

    Among photographs and among rendered faces, the weight of a face is the number of faces in its bin of 15
    degrees of absolute yaw to the power `-pose_balance`.
    """
    probabilities = np.zeros(len(crops))
    both = crops.rendered.any() and not crops.rendered.all()
    for rendered, share in ((True, rendered_share), (False, 1 - rendered_share)):
        chosen = crops.rendered == rendered
        if not chosen.any():
            continue
        groups = np.minimum(np.abs(crops.yaw[chosen]) // 15, 5).astype(int)
        weights = np.bincount(groups)[groups] ** -float(pose_balance)
        probabilities[chosen] = weights / weights.sum() * (share if both else 1.0)
    probabilities /= probabilities.sum()
    return probabilities


@dataclass(frozen=True)
class Batch:
    """Input and labels of a training step.

    Attributes:
        images: `(n, 3, size, size)` float32 in [0, 255], channels last in memory.
        points: `(n, 106, 2)` shares of the crop.
        weights: `(n, 106)`.
    """

    images: Tensor
    points: Tensor
    weights: Tensor


def make_batch(
    crops: Crops,
    rows: NDArray[np.int64],
    model: ModelSettings,
    settings: AugmentSettings,
    rng: np.random.Generator,
    part: slice = slice(None),
) -> Batch:
    """Change the crops of some faces at random and make tensors of them.

    Args:
        crops: the stored faces.
        rows: numbers of the faces, `(n,)`.
        model: settings of the model, for its input size.
        settings: the changes.
        rng: draws the changes.
        part: the share of this process. The draws are those of the whole batch, so that several processes see
            the same pictures as one.
    """
    matrices, flips = _draw_warps(crops, rows, model, settings, rng)
    looks = _draw_looks(len(rows), settings, rng)
    images, points = _warp(crops, rows[part], matrices[part], flips[part], model.size)
    neighbours = images.copy()
    for number, look in enumerate(looks[part]):
        recolour(images[number], neighbours[number - 1], look)
    weights = np.where(flips[part, None], crops.weights[rows[part]][:, FLIP], crops.weights[rows[part]])
    tensor = torch.from_numpy(images).float().permute(0, 3, 1, 2)
    return Batch(tensor, torch.from_numpy(points), torch.from_numpy(weights))


def _draw_warps(
    crops: Crops,
    rows: NDArray[np.int64],
    model: ModelSettings,
    settings: AugmentSettings,
    rng: np.random.Generator,
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Draw a map `(n, 2, 3)` from pixels of the input to those of the stored crop, and the mirroring."""
    n, size = len(rows), model.size
    laws = (BOX_WIDTH, BOX_HEIGHT, BOX_SHIFT_X, BOX_SHIFT_Y)
    width, height, shift_x, shift_y = (
        mean + settings.box_jitter * deviation * rng.standard_normal(n) for mean, deviation in laws
    )
    true = crops.boxes[rows].astype(np.float64)
    extent = true[:, 2:] - true[:, :2]
    centre = (true[:, :2] + true[:, 2:]) / 2 + extent * np.stack([shift_x, shift_y], 1)
    side = np.maximum(extent[:, 0] * width, extent[:, 1] * height) * model.box_scale
    angle = np.radians(settings.rotation) * rng.uniform(-1, 1, n)
    flips = rng.random(n) < settings.flip
    scale = side / size
    mirror = np.where(flips, -1.0, 1.0)
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    linear = np.stack([np.stack([cos * mirror, -sin], 1), np.stack([sin * mirror, cos], 1)], 1)
    wider = np.exp(settings.stretch / 2 * rng.standard_normal(n))
    linear = np.stack([wider, 1 / wider], 1)[:, :, None] * linear
    offset = centre - linear @ np.full(2, (size - 1) / 2)
    return np.concatenate([linear, offset[:, :, None]], 2), flips


def _warp(
    crops: Crops, rows: NDArray[np.int64], matrices: NDArray[np.float64], flips: NDArray[np.bool_], size: int
) -> tuple[NDArray[np.uint8], Points]:
    images = np.empty((len(rows), size, size, 3), np.uint8)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    for image, row, matrix in zip(images, rows, matrices, strict=True):
        cv2.warpAffine(crops.images[row], matrix, (size, size), dst=image, flags=flags)
    stored = np.where(flips[:, None, None], crops.points[rows][:, FLIP], crops.points[rows])
    back = np.linalg.inv(matrices[:, :, :2])  # the matrices lead from the input to the stored crop
    pixels = (stored - matrices[:, None, :, 2]) @ back.transpose(0, 2, 1)
    return images, ((pixels + 0.5) / size).astype(np.float32)


@dataclass(frozen=True)
class Look:
    """Changes of one picture apart from the warp.

    Attributes:
        cover: left, top, right, bottom of an occluder, as shares of the side; empty: none.
        paint: colour of the occluder; empty: another face of the batch.
        border: side (0 the top, then clockwise), share of the side and slope of a black border; empty: none.
        blur: standard deviation in pixels; 0: none.
        shrink: factor by which the picture is scaled down and up again; 1: none.
        gain: factor on each channel, before `offset`.
        offset: added brightness, from 0 to 255.
        grey: remove the colours.
        noise: standard deviation, from 0 to 255.
        seed: start of the picture in the field of noise.
    """

    cover: tuple[float, ...]
    paint: tuple[float, ...]
    border: tuple[float, ...]
    blur: float
    shrink: float
    gain: tuple[float, ...]
    offset: float
    grey: bool
    noise: float
    seed: int


def _draw_looks(n: int, settings: AugmentSettings, rng: np.random.Generator) -> list[Look]:
    return [_draw_look(settings, rng) for _ in range(n)]


def _draw_look(settings: AugmentSettings, rng: np.random.Generator) -> Look:
    spread = settings.colour
    left, top = rng.uniform(-0.1, 0.9, 2)
    width, height = rng.uniform(0.1, 0.45, 2)
    covered, painted, blurred, shrunk, grey, bordered = rng.random(6)
    return Look(
        cover=(left, top, left + width, top + height) if covered < settings.occlusion else (),
        paint=tuple(rng.uniform(0, 255, 3)) if painted < 0.5 else (),
        border=_draw_border(rng) if bordered < settings.border else (),
        blur=rng.uniform(0.5, 2.5) if blurred < settings.blur else 0.0,
        shrink=rng.uniform(2, 6) if shrunk < settings.low_resolution else 1.0,
        gain=tuple(np.exp(rng.normal(0, spread) + rng.normal(0, 0.3 * spread, 3))),
        offset=rng.normal(0, 60 * spread),
        grey=bool(grey < settings.grey),
        noise=rng.uniform(0, 255 * settings.noise),
        seed=int(rng.integers(2**31)),
    )


def _draw_border(rng: np.random.Generator) -> tuple[float, ...]:
    return float(rng.integers(4)), rng.uniform(0.02, 0.3), rng.normal(0, 0.1)


def blacken(image: Image, side: int, share: float, slope: float) -> None:
    """Blacken one side of a picture `(size, size, 3)`, in place; see :class:`Look`."""
    size = len(image)
    steps = np.arange(size)
    line = share * size + slope * (steps - size / 2)
    np.rot90(image, side)[steps[:, None] < line] = 0


def recolour(image: Image, neighbour: Image, look: Look) -> None:
    """Change a picture `(size, size, 3)` in place; `neighbour` may cover a part of it."""
    size = len(image)
    if look.cover:
        x0, y0, x1, y1 = (min(max(round(v * size), 0), size) for v in look.cover)
        image[y0:y1, x0:x1] = look.paint or neighbour[y0:y1, x0:x1]
    if look.blur:
        cv2.GaussianBlur(image, (0, 0), look.blur, dst=image)
    if look.shrink > 1:
        small = max(8, round(size / look.shrink))
        reduced = cv2.resize(image, (small, small), interpolation=cv2.INTER_AREA)
        cv2.resize(reduced, (size, size), dst=image, interpolation=cv2.INTER_LINEAR)
    table = np.clip(np.arange(256)[:, None] * np.array(look.gain) + look.offset, 0, 255)
    cv2.LUT(image, table.astype(np.uint8)[None], dst=image)
    if look.grey:
        cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB, dst=image)
    if look.noise >= 0.5:
        first = look.seed % _FIELD_EXTRA
        field = _noise_field()[first : first + image.size].reshape(image.shape)
        level = look.noise / _FIELD_SPREAD
        cv2.addWeighted(image, 1, field, level, -128 * level, dst=image)
    if look.border:
        blacken(image, int(look.border[0]), *look.border[1:])


_FIELD_SPREAD, _FIELD_EXTRA = 32, 1 << 16


@cache
def _noise_field() -> NDArray[np.uint8]:
    """Draw noise once; each picture takes another part of it, which is faster than new noise."""
    noise = np.random.default_rng(0).normal(128, _FIELD_SPREAD, 3 * 512 * 512 + _FIELD_EXTRA)
    return np.clip(np.round(noise), 0, 255).astype(np.uint8)
