"""Train the shipped detector on faces pasted into backgrounds at all sizes."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from mmtoolkit.landmarks.data.face import Boxes, Face, Image
from mmtoolkit.landmarks.detection.detector import STRIDE, CentreNet, detector_box
from mmtoolkit.landmarks.rendering.render import Array
from mmtoolkit.landmarks.rendering.scenery import draw_background

STORED = 192  # side of stored pictures: the largest face then has about 120 pixels
SMALLEST, LARGEST = 14.0, 210.0  # longer side of a pasted face in pixels


@dataclass(frozen=True)
class FaceBank:
    """Pictures with one face each, kept small.

    Attributes:
        images: `(n, STORED, STORED, 3)` RGB.
        boxes: `(n, 4)` of the faces, in their pixels.
        scenes: `(m, STORED, STORED, 3)` real pictures without faces; may be empty.
    """

    images: NDArray[np.uint8]
    boxes: Boxes
    scenes: NDArray[np.uint8]


def fill_bank(faces: Sequence[Face] | Iterator[Face], scenes: Sequence[Image]) -> FaceBank:
    """Shrink pictures of faces and pictures without, cut to squares."""
    images, boxes = [], []
    for face in faces:
        height, width = face.image.shape[:2]
        scale = STORED / max(height, width)
        canvas = np.full((STORED, STORED, 3), 127, np.uint8)
        small = cv2.resize(
            face.image, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_AREA
        )
        canvas[: small.shape[0], : small.shape[1]] = small
        images.append(canvas)
        boxes.append(detector_box(face.points, face.weights) * np.float32(scale))
    empty = [cv2.resize(scene, (STORED, STORED), interpolation=cv2.INTER_AREA) for scene in scenes]
    rest = np.array(empty, np.uint8).reshape(-1, STORED, STORED, 3)
    return FaceBank(np.stack(images), np.stack(boxes).astype(np.float32), rest)


def draw_scene(bank: FaceBank, side: int, rng: np.random.Generator) -> tuple[Image, Boxes, NDArray[np.bool_]]:
    """Draw a picture `(side, side, 3)` with up to three faces.

    Returns:
        The picture, the boxes `(n, 4)`, and where faces may be that nobody labelled `(side, side)`: the
        surroundings of pasted faces.
    """
    picture = _draw_scenery(bank, side, rng)
    unknown = np.zeros((side, side), bool)
    boxes: list[Boxes] = []
    taken: list[Boxes] = []
    for _ in range(rng.integers(0, 3)):
        _paste_decoy(picture, bank, rng)
    for _ in range(rng.choice([0, 1, 2, 3], p=[0.2, 0.5, 0.2, 0.1])):
        number = int(rng.integers(len(bank.images)))
        placed = _place(bank, number, side, rng)
        if placed is None or any(_touch(placed[1], other) for other in taken):
            continue
        matrix, area, box = placed
        _paste(picture, bank.images[number], matrix, area, box, rng)
        left, top, right, bottom = np.clip(np.round(area), 0, side).astype(int)
        unknown[top:bottom, left:right] = True
        taken.append(area)
        boxes.append(box)
    picture = _spoil(picture, rng)
    return picture, np.array(boxes, np.float32).reshape(-1, 4), unknown


def _draw_scenery(bank: FaceBank, side: int, rng: np.random.Generator) -> Image:
    if len(bank.scenes) == 0 or rng.random() < 0.25:
        small = draw_background(side // 2, rng)
        return (cv2.resize(small, (side, side)) * 255).astype(np.uint8)
    scene = bank.scenes[rng.integers(len(bank.scenes))]
    if rng.random() < 0.5:
        scene = scene[:, ::-1]
    part = int(rng.uniform(0.4, 1.0) * STORED)
    left, top = rng.integers(0, STORED - part + 1, 2)
    return np.ascontiguousarray(cv2.resize(scene[top : top + part, left : left + part], (side, side)))


def _place(
    bank: FaceBank, number: int, side: int, rng: np.random.Generator
) -> tuple[Array, Boxes, Boxes] | None:
    """Draw where a stored picture goes: its map `(2, 3)`, the area that it covers, its face's box."""
    box = bank.boxes[number]
    size = float(np.exp(rng.uniform(np.log(SMALLEST), np.log(min(LARGEST, 0.95 * side)))))
    scale = size / float((box[2:] - box[:2]).max())
    flip = rng.random() < 0.5
    if flip:
        box = np.array([STORED - 1 - box[2], box[1], STORED - 1 - box[0], box[3]], np.float32)
    room = side - (box[2:] - box[:2]) * scale
    if room.min() < 0:
        return None
    corner = rng.uniform(-0.1 * size, room + 0.1 * size)
    shift = corner - box[:2] * scale
    matrix = np.array([[scale, 0, shift[0]], [0, scale, shift[1]]])
    area = np.concatenate([shift, shift + STORED * scale]).astype(np.float32)
    placed = np.concatenate([corner, corner + (box[2:] - box[:2]) * scale]).astype(np.float32)
    if flip:
        matrix = matrix @ np.array([[-1, 0, STORED - 1], [0, 1, 0], [0, 0, 1.0]])
    return matrix, area, placed


def _touch(one: Boxes, other: Boxes) -> bool:
    return bool((np.minimum(one[2:], other[2:]) > np.maximum(one[:2], other[:2])).all())


def _paste_decoy(picture: Image, bank: FaceBank, rng: np.random.Generator) -> None:
    """Paste a part of a scene, so that a pasted rectangle does not mean a face."""
    side = len(picture)
    scale = float(np.exp(rng.uniform(np.log(0.1), np.log(0.7))))
    corner = rng.uniform(-0.1, 1 - 0.5 * scale, 2) * side
    matrix = np.array([[scale, 0, corner[0]], [0, scale, corner[1]]]) * [side / STORED, side / STORED, 1]
    area = np.concatenate([corner, corner + side * scale]).astype(np.float32)
    patch = cv2.resize(_draw_scenery(bank, side, rng), (STORED, STORED), interpolation=cv2.INTER_AREA)
    _paste(picture, patch, matrix, area, area, rng)


def _paste(
    picture: Image, image: Array, matrix: Array, area: Boxes, box: Boxes, rng: np.random.Generator
) -> None:
    """Paste a stored picture by its map: all of its `area`, or an oval around `box`, sharp or soft."""
    side = len(picture)
    scale = abs(matrix[0, 0])
    if scale < 0.5:  # average before shrinking, or thin lines would flicker
        image = cv2.GaussianBlur(image, (0, 0), 0.4 / scale)
    warped = cv2.warpAffine(image, matrix, (side, side), flags=cv2.INTER_LINEAR)
    left, top, right, bottom = np.clip(np.round(area), 0, side).astype(int)
    mask: Array = np.zeros((side, side), np.float32)
    mask[top:bottom, left:right] = 1
    if rng.random() < 0.35:
        middle, reach = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) * rng.uniform(0.6, 0.9)
        oval = np.zeros((side, side), np.float32)
        centre, axes = (int(middle[0]), int(middle[1])), (int(reach[0]) + 1, int(reach[1]) + 1)
        cv2.ellipse(oval, centre, axes, 0, 0, 360, 1.0, -1)
        mask *= oval
    if rng.random() < 0.5:
        mask = cv2.GaussianBlur(mask, (0, 0), float(rng.uniform(1, 1 + 0.05 * (right - left + 1))))
    blend = mask[..., None] * (warped.astype(np.float32) - picture)
    picture[:] = np.clip(picture + blend, 0, 255).astype(np.uint8)


def _spoil(picture: Image, rng: np.random.Generator) -> Image:
    """Change light, colours and sharpness."""
    levels: Array = picture.astype(np.float32) * np.float32(
        np.exp(rng.normal(0, 0.25, 3) * 0.4 + rng.normal(0, 0.25))
    )
    levels += np.float32(rng.normal(0, 15))
    if rng.random() < 0.15:
        levels[:] = levels.mean(axis=2, keepdims=True)
    if rng.random() < 0.25:
        levels = cv2.GaussianBlur(levels, (0, 0), float(rng.uniform(0.4, 1.5)))
    if rng.random() < 0.4:
        levels += rng.normal(0, rng.uniform(1, 10), levels.shape).astype(np.float32)
    spoiled: Image = np.clip(levels, 0, 255).astype(np.uint8)
    return spoiled


def make_targets(boxes: Boxes, unknown: NDArray[np.bool_]) -> tuple[Array, Array]:
    """Return what the network should say of a picture.

    Returns:
        Targets `(5, h, w)`: 1 around the middle of a face, and the numbers of its box in cells; and
        weights `(2, h, w)` of the heat and of the boxes. Each face's middle weighs 1; the cells around
        it may say what they like, and the surroundings of pasted faces, which nobody labelled, count less.
    """
    height, width = (side // STRIDE for side in unknown.shape)
    rows, columns = np.mgrid[:height, :width].astype(np.float32) + np.float32(0.5)
    targets = np.zeros((5, height, width), np.float32)
    weights = np.zeros((2, height, width), np.float32)
    covered = cv2.resize(unknown.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
    weights[0] = 1 - 0.7 * covered
    offsets = []
    for box in boxes / STRIDE:
        centre, size = (box[:2] + box[2:]) / 2, box[2:] - box[:2]
        away = np.hypot((columns - centre[0]) / size[0], (rows - centre[1]) / size[1])
        weights[0][away < 0.5] = 1
        offsets.append((away, centre, size))
    for away, _, _ in offsets:
        weights[0][away < 0.3] = 0
    for away, centre, size in offsets:
        near = (away < 0.14) | (away == away.min())
        targets[0][near] = 1
        targets[1][near], targets[2][near] = (centre[0] - columns)[near], (centre[1] - rows)[near]
        targets[3][near], targets[4][near] = np.log(size)
        weights[:, near] = 1 / near.sum()
    return targets, weights


def detector_loss(found: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Focal loss of the heat (arXiv 1708.02002, exponent 2) and L1 of the boxes, per face."""
    heat, face = found[:, 0], targets[:, 0]
    probability = heat.sigmoid()
    missed = 2 * (1 - probability) ** 2 * F.logsigmoid(heat)
    invented = probability**2 * F.logsigmoid(-heat)
    focal = -(torch.where(face == 1, missed, invented) * weights[:, 0]).sum()
    scale = torch.cat([(-targets[:, 3:]).exp().clamp(max=1), torch.ones_like(targets[:, 3:])], dim=1) * 2
    boxes = ((found[:, 1:] - targets[:, 1:]).abs() * scale * weights[:, 1:]).sum()
    return (focal + boxes) / (face * weights[:, 1]).sum().clamp(min=1)


def train_detector(
    bank: FaceBank,
    steps: int,
    *,
    batch_size: int = 24,
    side: int = 256,
    learning_rate: float = 2e-3,
    seed: int = 0,
    report: Callable[[int, float, CentreNet], None] | None = None,
) -> CentreNet:
    """Train a network with AdamW, a cosine schedule and averaged weights; returns the averages.

    Args:
        bank: the faces and scenes.
        steps: number of batches.
        batch_size: pictures a batch.
        side: of each picture in pixels, a multiple of 32.
        learning_rate: the largest.
        seed: of network and pictures.
        report: called every 250 steps with the step, the mean loss and the averaged network.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    network = CentreNet()
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = torch.optim.swa_utils.AveragedModel(
        network, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.998), use_buffers=True
    )
    averaged = average.module
    assert isinstance(averaged, CentreNet)
    optimizer = torch.optim.AdamW(network.parameters(), learning_rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, steps, pct_start=0.05)
    losses = []
    for step in range(1, steps + 1):
        images, targets, weights = _batch(bank, batch_size, side, rng)
        with torch.autocast("cpu", torch.bfloat16):
            found = network(images)
        loss = detector_loss(found.float(), targets, weights)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 10.0)
        optimizer.step()
        schedule.step()
        average.update_parameters(network)
        losses.append(float(loss.detach()))
        if report and (step % 250 == 0 or step == steps):
            report(step, float(np.mean(losses[-250:])), averaged)
    return averaged.eval()


def _batch(bank: FaceBank, count: int, side: int, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
    images, targets, weights = [], [], []
    for _ in range(count):
        picture, boxes, unknown = draw_scene(bank, side, rng)
        target, weight = make_targets(boxes, unknown)
        images.append(picture)
        targets.append(target)
        weights.append(weight)
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float()
    return pixels, torch.from_numpy(np.stack(targets)), torch.from_numpy(np.stack(weights))


def save_detector(network: CentreNet, path: Path) -> None:
    """Write the weights in half precision."""
    from safetensors.torch import save_file

    state = network.state_dict()
    halved = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    save_file({k: v.contiguous() for k, v in halved.items()}, path)
