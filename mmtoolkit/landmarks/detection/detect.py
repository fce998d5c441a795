"""Detectors by name: the shipped one, those of face-alignment, or the whole picture."""

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from threading import Lock

import numpy as np
import torch

from mmtoolkit.core.errors import CheckpointError, UsageError
from mmtoolkit.core.extras import need
from mmtoolkit.landmarks.data.face import BOX_HEIGHT, BOX_SHIFT_Y, BOX_WIDTH, Boxes, Image
from mmtoolkit.landmarks.detection.detector import Detector as CentreDetector
from mmtoolkit.landmarks.detection.detector import load_detector, widen

Detector = Callable[[Image], Boxes]
"""Turns a picture into `(n, 5)`: left, top, right and bottom like the challenge's boxes, and a score."""

_FILES = {
    "yunet": ("face_detection_yunet_2023mar.onnx",),
    "scrfd": ("scrfd_2.5g_bnkps.onnx",),
    "sfd": ("s3fd-619a316812.pth",),
    "blazeface": ("blazeface.pth", "anchors.npy"),
}
"""Files of face-alignment's detectors in torch's hub folder, to which it downloads."""


def make_detector(name: str, device: str = "cpu", *, download: bool = False) -> Detector:
    """Build a detector by name.

    Args:
        name: `small` (ships with this package), `yunet`, `scrfd`, `sfd`, `blazeface`, or `whole` (the whole
            picture is the face), or a file that `mmtk landmarks train-detector` wrote.
        device: `cpu` or `cuda`, for those of face-alignment.
        download: let face-alignment fetch weights that are not on this machine.

    Raises:
        UsageError: if the name is unknown, weights or a package are missing, or `download` does not apply.
    """
    file = name.endswith(".safetensors")
    if not file and name not in {"small", "whole", *_FILES}:
        known = ", ".join(["small", "whole", *_FILES])
        raise UsageError(f"`detector` {name}: no such detector; use {known} or a .safetensors file")
    if download and name not in _FILES:
        raise UsageError(f"`detector` {name}: needs no `download`")
    if file:
        return _widened(partial(load_detector, Path(name)))
    if name == "small":
        return _widened(CentreDetector)
    if name == "whole":
        return whole_picture
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    missing = [file for file in _FILES[name] if not (folder / file).is_file()]
    if missing and not download:
        raise UsageError(
            f"`detector` {name}: its weights ({', '.join(missing)}) are not in {folder}; "
            "set `download` to fetch them, or use small"
        )
    return _of_face_alignment(name, device)


def as_detector(detector: Detector | str | None, device: str) -> Detector | None:
    """Make a detector if it is given by name; see :func:`make_detector`."""
    return make_detector(detector, device) if isinstance(detector, str) else detector


def whole_picture(image: Image) -> Boxes:
    """Return the whole picture as the box of one face."""
    height, width = image.shape[:2]
    return np.array([[0, 0, width, height, 1]], np.float32)


def _widened(make: Callable[[], CentreDetector]) -> Detector:
    """Load a detector of the shipped kind, and return boxes like the challenge's."""
    load = cache(make)  # on the first picture: data sets with boxes need no detector

    def detect(image: Image) -> Boxes:
        try:
            found = load()(image)
        except FileNotFoundError:
            hint = "use another detector, or give the boxes"
            raise CheckpointError("no detector ships with this build", hint=hint) from None
        return np.concatenate([widen(found.boxes), found.scores[:, None]], axis=1).astype(np.float32)

    return detect


def _of_face_alignment(name: str, device: str) -> Detector:
    import importlib

    module = importlib.import_module(f"face_alignment.detection.{name}")
    if name == "scrfd":
        need("onnxruntime", "onnx", "`detector` scrfd")
    detector = module.FaceDetector(device=device)

    lock = Lock()  # not all of them can be called from several threads

    def detect(image: Image) -> Boxes:
        with lock:
            found = detector.detect_from_image(image)
        boxes = np.array([box[:5] for box in found], np.float32).reshape(-1, 5)
        return boxes_of_faces(boxes)

    return detect


def boxes_of_faces(boxes: Boxes) -> Boxes:
    """Turn tight detector boxes `(n, 5)`, from forehead to chin, into boxes like the challenge's.

    Tight boxes are assumed to be 10 % higher than the box around the points, with the extra part on top.
    """
    size = boxes[:, 2:4] - boxes[:, :2]
    true_height = size[:, 1] / 1.1
    centre_x = (boxes[:, 0] + boxes[:, 2]) / 2
    centre_y = boxes[:, 3] - true_height * (0.5 - BOX_SHIFT_Y[0])
    half_width, half_height = size[:, 0] * BOX_WIDTH[0] / 2, true_height * BOX_HEIGHT[0] / 2
    sides = [centre_x - half_width, centre_y - half_height, centre_x + half_width, centre_y + half_height]
    return np.stack([*sides, boxes[:, 4]], axis=1).astype(np.float32)
