"""Targets, loss and training loop of the detector."""

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from mmtoolkit.core.device import use_bfloat16
from mmtoolkit.core.training import Average, check_finite, cosine_rate, set_rate
from mmtoolkit.landmarks.data.face import Boxes
from mmtoolkit.landmarks.detection.detector import STRIDE, CentreNet
from mmtoolkit.landmarks.detection.scenes import FaceBank, draw_scene
from mmtoolkit.landmarks.rendering.render import Array

WARMUP = 0.05
"""Share of the steps over which the learning rate rises."""
DECAY = 0.998
"""Decay of the averaged weights."""
LOSS_STEPS = 250
"""Steps whose mean loss is reported."""


def make_targets(boxes: Boxes, unknown: NDArray[np.bool_]) -> tuple[Array, Array]:
    """Return the target output of the network for a picture.

    Args:
        boxes: `(n, 4)` of the faces, in pixels.
        unknown: `(side, side)` areas that may show unlabelled faces.

    Returns:
        Targets `(5, h, w)`: 1 at the centre of a face, and its box in cells; and weights `(2, h, w)` of the
        heat and of the boxes. The centre cells of each face weigh 1 together, the ambiguous cells around them
        0; the surroundings of pasted faces count less, as they may show unlabelled faces.
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
    # the squared factors make cells that are right already count little: nearly all cells are background
    missed = 2 * (1 - probability) ** 2 * F.logsigmoid(heat)
    invented = probability**2 * F.logsigmoid(-heat)
    focal = -(torch.where(face == 1, missed, invented) * weights[:, 0]).sum()
    scale = torch.cat([(-targets[:, 3:]).exp().clamp(max=1), torch.ones_like(targets[:, 3:])], dim=1) * 2
    boxes = ((found[:, 1:] - targets[:, 1:]).abs() * scale * weights[:, 1:]).sum()
    return (focal + boxes) / (face * weights[:, 1]).sum().clamp(min=1)


def fit_detector(
    bank: FaceBank,
    steps: int,
    *,
    batch_size: int = 24,
    side: int = 192,
    learning_rate: float = 4e-3,
    seed: int = 0,
    device: torch.device | None = None,
    report: Callable[[int, float, CentreNet], None] | None = None,
) -> CentreNet:
    """Train a network with AdamW and a cosine plan, and return its averaged weights.

    Args:
        bank: the faces and scenes.
        steps: number of batches.
        batch_size: pictures per batch.
        side: side of each picture in pixels, a multiple of 32.
        learning_rate: largest learning rate.
        seed: seed of network and pictures.
        device: where to compute; None means the CPU.
        report: called after each step with its number, the mean loss of the last :data:`LOSS_STEPS` steps and
            the network.

    Raises:
        DivergenceError: if the loss stops being finite.
    """
    device = device or torch.device("cpu")
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    network = CentreNet()
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = Average(network.state_dict(), DECAY)
    optimizer = torch.optim.AdamW(network.parameters(), learning_rate, weight_decay=1e-4)
    bfloat16, warmup = use_bfloat16("bfloat16", device), round(WARMUP * steps)
    losses: list[float] = []
    for step in range(steps):
        set_rate(optimizer, learning_rate * cosine_rate(step, steps, warmup=warmup))
        batch = _batch(bank, batch_size, side, rng)
        loss = _batch_loss(network, [one.to(device) for one in batch], bfloat16=bfloat16)
        losses.append(check_finite(float(loss.detach()), f"step {step + 1}", "the learning rate"))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 10.0)
        optimizer.step()
        average.update(network.state_dict(), step + 1)
        if report:
            report(step + 1, float(np.mean(losses[-LOSS_STEPS:])), network)
    network.load_state_dict(average.values)
    return network.eval()


def _batch_loss(network: CentreNet, batch: Sequence[Tensor], *, bfloat16: bool) -> Tensor:
    images, targets, weights = batch
    with torch.autocast(images.device.type, torch.bfloat16, enabled=bfloat16):
        found = network(images)
    return detector_loss(found.float(), targets, weights)


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
    state = network.state_dict()
    rounded = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    save_file({k: v.cpu().contiguous() for k, v in rounded.items()}, path)
