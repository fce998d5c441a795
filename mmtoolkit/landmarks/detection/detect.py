"""Where the faces are: the shipped detector, or face-alignment's where their weights are here."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from threading import Lock

import numpy as np
import torch

from mmtoolkit.core.errors import CheckpointError, UsageError
from mmtoolkit.landmarks.data.face import BOX_HEIGHT, BOX_SHIFT_Y, BOX_WIDTH, Boxes, Image

Detector = Callable[[Image], Boxes]
"""Turns a picture into `(n, 5)`: left, top, right, bottom as the challenge's boxes lie, and a score."""

_FILES = {
    "yunet": ("face_detection_yunet_2023mar.onnx",),
    "scrfd": ("scrfd_2.5g_bnkps.onnx",),
    "sfd": ("s3fd-619a316812.pth",),
    "blazeface": ("blazeface.pth", "anchors.npy"),
}
"""Files of face-alignment's detectors in torch's hub folder, where it puts what it downloads."""


def make_detector(name: str, device: str = "cpu", *, download: bool = False) -> Detector:
    """Build a detector by name.

    Args:
        name: `small` (ships with this package), `yunet`, `scrfd`, `sfd`, `blazeface`, or `whole` (the picture
            itself is the face).
        device: `cpu` or `cuda`, for face-alignment's.
        download: let face-alignment fetch weights that are not on this machine.

    Raises:
        UsageError: if weights are missing, or onnxruntime for `scrfd`; if there is nothing to download.
    """
    if download and name not in _FILES:
        raise UsageError(f"--detector {name}: needs no --download")
    if name == "small":
        return _small()
    if name == "whole":
        return whole_picture
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    missing = [file for file in _FILES[name] if not (folder / file).is_file()]
    if missing and not download:
        raise UsageError(
            f"--detector {name}: its weights ({', '.join(missing)}) are not in {folder}; "
            "add --download to fetch them, or take --detector small"
        )
    return _of_face_alignment(name, device)


def whole_picture(image: Image) -> Boxes:
    """Take the picture itself as the box of one face."""
    height, width = image.shape[:2]
    return np.array([[0, 0, width, height, 1]], np.float32)


def _small() -> Detector:
    from mmtoolkit.landmarks.detection.detector import Detector as SmallDetector
    from mmtoolkit.landmarks.detection.detector import widen

    # loaded on its first picture: sets that bring their boxes need no detector
    load = cache(SmallDetector)

    def detect(image: Image) -> Boxes:
        try:
            found = load()(image)
        except FileNotFoundError:
            hint = "name another --detector, or give the boxes"
            raise CheckpointError("no detector ships with this build", hint=hint) from None
        return np.concatenate([widen(found.boxes), found.scores[:, None]], axis=1).astype(np.float32)

    return detect


def _of_face_alignment(name: str, device: str) -> Detector:
    import importlib

    module = importlib.import_module(f"face_alignment.detection.{name}")
    try:
        detector = module.FaceDetector(device=device)
    except ImportError as error:
        raise UsageError(f"--detector {name}: {error}; pip install 'mmtoolkit[onnx]'") from None

    lock = Lock()  # not all of them can be called from several threads

    def detect(image: Image) -> Boxes:
        with lock:
            found = detector.detect_from_image(image)
        boxes = np.array([box[:5] for box in found], np.float32).reshape(-1, 5)
        return boxes_of_faces(boxes)

    return detect


def boxes_of_faces(boxes: Boxes) -> Boxes:
    """Turn tight detector boxes `(n, 5)`, from forehead to chin, into ones like the challenge's.

    Tight boxes are taken as a tenth higher than the points' own box, with the added part on top.
    """
    size = boxes[:, 2:4] - boxes[:, :2]
    true_height = size[:, 1] / 1.1
    centre_x = (boxes[:, 0] + boxes[:, 2]) / 2
    centre_y = boxes[:, 3] - true_height * (0.5 - BOX_SHIFT_Y[0])
    half_width, half_height = size[:, 0] * BOX_WIDTH[0] / 2, true_height * BOX_HEIGHT[0] / 2
    sides = [centre_x - half_width, centre_y - half_height, centre_x + half_width, centre_y + half_height]
    return np.stack([*sides, boxes[:, 4]], axis=1).astype(np.float32)
