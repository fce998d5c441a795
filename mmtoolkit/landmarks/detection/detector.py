"""The face detector that ships: a heatmap of face centres at low resolution (after arXiv 1904.07850).

Its boxes are midway between the box around the 106 points and the challenge's wider one, so that they overlap
both well; :func:`widen` turns them into the challenge's, on which the landmark networks are trained.
"""

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

import cv2
import numpy as np
import torch
from safetensors.torch import load as load_tensors
from torch import Tensor, nn
from torch.nn import functional as F

from mmtoolkit.core.checkpoint import matching_weights
from mmtoolkit.core.files import read_tensors
from mmtoolkit.landmarks.data.face import (
    BOX_HEIGHT,
    BOX_SHIFT_X,
    BOX_SHIFT_Y,
    BOX_WIDTH,
    Boxes,
    Image,
    enclosing_box,
    intersection_over_union,
)
from mmtoolkit.landmarks.data.points import Points
from mmtoolkit.landmarks.models.networks import ConvNorm, fold_norms
from mmtoolkit.landmarks.rendering.render import Array

STRIDE = 8
SIDE = 256
"""Longer side in pixels at which a picture is searched."""
WEIGHTS = "detector.safetensors"
_OFFICIAL = np.array([BOX_WIDTH[0], BOX_HEIGHT[0]], np.float32)
_MIDWAY = (1 + _OFFICIAL) / 2
_SHIFT = np.array([BOX_SHIFT_X[0], BOX_SHIFT_Y[0]], np.float32)


def detector_box(points: Points, weights: Points | None = None) -> Boxes:
    """Return the box `(4,)` that the detector should predict for a face with these points `(n, 2)`."""
    box: Boxes = _resize(enclosing_box(points, weights)[None], _MIDWAY, _SHIFT / 2)[0]
    return box


def widen(boxes: Boxes) -> Boxes:
    """Widen the detector's boxes `(n, 4)` to the average shape of the challenge's."""
    return _resize(boxes, _OFFICIAL / _MIDWAY, _SHIFT / 2 / _MIDWAY)


def _resize(boxes: Boxes, factor: Array, shift: Array) -> Boxes:
    """Scale boxes `(n, 4)` about their centres and move them, by shares of width and height `(2,)`."""
    size = boxes[:, 2:] - boxes[:, :2]
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2 + size * shift
    half = size * factor / 2
    return np.concatenate([centre - half, centre + half], axis=1).astype(np.float32)


def _conv(inputs: int, outputs: int, stride: int = 1) -> ConvNorm:
    return ConvNorm(inputs, outputs, 3, stride)


class CentreNet(nn.Module):
    """Five levels, each of half the resolution; the last two are added to the third."""

    def __init__(self) -> None:
        """Build the untrained layers; each cell starts with a probability of 0.01 for a face."""
        super().__init__()
        self.third = nn.Sequential(
            _conv(3, 12, 2), _conv(12, 24, 2), _conv(24, 24), _conv(24, 36, 2), _conv(36, 36)
        )
        self.fourth = nn.Sequential(_conv(36, 52, 2), _conv(52, 52), _conv(52, 52))
        self.fifth = nn.Sequential(_conv(52, 60, 2), _conv(60, 60))
        self.from_fourth, self.from_fifth = nn.Conv2d(52, 36, 1), nn.Conv2d(60, 36, 1)
        self.before = _conv(36, 36)
        self.head = nn.Conv2d(36, 5, 1)
        nn.init.zeros_(self.head.weight)
        with torch.no_grad():
            self.head.bias.copy_(torch.tensor([-4.6, 0.0, 0.0, 2.0, 2.0]))  # type: ignore[union-attr]

    def forward(self, images: Tensor) -> Tensor:
        """Return `(n, 5, h / 8, w / 8)` of pictures `(n, 3, h, w)` in [0, 255].

        The channels are the logit of a face's centre, its offset (x, y) from the middle of the cell, and the
        logarithms of width and height, all in cells.
        """
        third = self.third((images - 127.5) / 127.5)
        fourth = self.fourth(third)
        up = self.from_fourth(fourth) + F.interpolate(self.from_fifth(self.fifth(fourth)), scale_factor=2.0)
        found: Tensor = self.head(self.before(F.relu(third + F.interpolate(up, scale_factor=2.0))))
        return found


@dataclass(frozen=True)
class Detection:
    """Faces of one picture, the highest score first.

    Attributes:
        boxes: `(n, 4)` left, top, right, bottom in pixels.
        scores: `(n,)` in [0, 1].
    """

    boxes: Boxes
    scores: Boxes


class Detector:
    """Finds faces in pictures with the weights that ship.

    Args:
        threshold: least score of a face.
        overlap: largest intersection over union with a box of a higher score.
        side: longer side in pixels at which pictures are searched; larger finds smaller faces.
        network: network to use instead of the shipped one.
    """

    def __init__(
        self, threshold: float = 0.8, overlap: float = 0.4, side: int = SIDE, network: nn.Module | None = None
    ) -> None:
        """Keep the settings and load the weights."""
        self.threshold, self.overlap, self.side = threshold, overlap, side
        self.network = network or _shipped()

    def __call__(self, image: Image) -> Detection:
        """Find the faces of a picture `(height, width, 3)` RGB; none gives arrays of length 0."""
        scale = self.side / max(image.shape[:2])
        boxes, scores = self._search(image, scale)
        kept = suppress(boxes, scores, self.overlap)
        return Detection(boxes[kept], scores[kept])

    def _search(self, image: Image, scale: float) -> tuple[Boxes, Boxes]:
        height, width = (max(1, round(side * scale)) for side in image.shape[:2])
        interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        small = cv2.resize(image, (width, height), interpolation=interpolation)
        padded = np.full((-(-height // 32) * 32, -(-width // 32) * 32, 3), 127, np.uint8)
        padded[:height, :width] = small
        with torch.inference_mode():
            pixels = torch.from_numpy(padded).permute(2, 0, 1)[None].float()
            found = self.network(pixels.contiguous(memory_format=torch.channels_last))
            boxes, scores = decode(found, self.threshold)
        shrunk = np.array([width / image.shape[1], height / image.shape[0]] * 2, np.float32)
        return (boxes / shrunk).astype(np.float32), scores


def decode(found: Tensor, threshold: float) -> tuple[Boxes, Boxes]:
    """Turn the output `(1, 5, h, w)` into boxes `(n, 4)` in the network's pixels and scores `(n,)`."""
    heat = found[:, :1].sigmoid()
    # a face is a cell that no neighbour exceeds
    peaks = (heat == F.max_pool2d(heat, 3, 1, 1)) & (heat >= threshold)
    _, _, rows, columns = peaks.nonzero(as_tuple=True)
    cells = found[0, 1:, rows, columns]
    centre = torch.stack([columns, rows]) + 0.5 + cells[:2]
    half = cells[2:].clamp(-2, 5).exp() / 2
    boxes = torch.cat([centre - half, centre + half]).T * STRIDE
    return boxes.numpy(), heat[0, 0, rows, columns].numpy()


def suppress(boxes: Boxes, scores: Boxes, overlap: float) -> list[int]:
    """Return the boxes `(n, 4)` that stay after non-maximum suppression, the highest score first."""
    kept: list[int] = []
    for number in np.argsort(-scores, kind="stable").tolist():
        if all(intersection_over_union(boxes[number], boxes[other]) <= overlap for other in kept):
            kept.append(number)
    return kept


@cache
def _shipped() -> nn.Module:
    data = (files("mmtoolkit.landmarks") / "weights" / WEIGHTS).read_bytes()
    return _network(load_tensors(data))


def load_detector(path: Path) -> Detector:
    """Load a detector that `mmtk landmarks train-detector` wrote.

    Raises:
        CheckpointError: if the file is damaged or holds another network.
    """
    weights, _ = read_tensors(path)
    return Detector(network=_network(matching_weights(weights, CentreNet().state_dict(), path)))


def _network(weights: dict[str, Tensor]) -> nn.Module:
    network = CentreNet()
    network.load_state_dict(weights)  # half precision on disk only
    folded: nn.Module = fold_norms(network).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return folded
