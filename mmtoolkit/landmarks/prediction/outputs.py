"""Write predictions: JSON, CSV, `.txt`, `.pts`, overlays, aligned crops and video."""

import csv
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import cv2
import numpy as np

from mmtoolkit.core.errors import InputError, UsageError
from mmtoolkit.landmarks.data.face import Image, official_box
from mmtoolkit.landmarks.data.images import encode_image
from mmtoolkit.landmarks.data.points import NAMES, Points
from mmtoolkit.landmarks.data.text import write_points_txt, write_pts
from mmtoolkit.landmarks.data.write import new_folder
from mmtoolkit.landmarks.prediction.pictures import FoundFace, Prediction
from mmtoolkit.landmarks.report import draw_points

CROP = 256
"""Side of an aligned crop in pixels."""


def face_record(face: FoundFace) -> dict[str, Any]:
    """Describe a face in plain types, rounded for JSON."""
    record: dict[str, Any] = {
        "box": [round(v, 2) for v in face.box.tolist()],
        "box_score": round(face.box_score, 4),
        "score": round(float(face.scores.mean()), 4),
        **dict(zip(("yaw", "pitch", "roll"), (round(angle, 1) for angle in face.pose), strict=True)),
        "points": [[round(x, 2), round(y, 2)] for x, y in face.points.tolist()],
        "scores": [round(v, 3) for v in face.scores.tolist()],
    }
    return record if face.track < 0 else {"track": face.track, **record}


class OutputFolder:
    """A folder that receives predictions one by one, so that memory does not grow.

    Use it as a context manager; `files` lists what has been written.
    """

    def __init__(self, folder: Path, kinds: Sequence[str]) -> None:
        """Make the folder.

        Args:
            folder: new or empty.
            kinds: keys of :data:`KINDS`.

        Raises:
            UsageError: if the folder is not empty.
        """
        self._existed = folder.exists()
        self.folder = new_folder(folder)
        self.files: list[Path] = []
        self._writers: list[Callable[[Prediction], None]] = []
        self._closers: list[Callable[[], None]] = []
        for kind in dict.fromkeys(kinds):
            self._writers.append(KINDS[kind](self))

    def write(self, prediction: Prediction) -> None:
        """Write one picture's faces in every requested format."""
        for write in self._writers:
            write(prediction)

    def stream(self, name: str) -> Any:
        """Open a text file that stays open until the end."""
        path = self.folder / name
        stream = path.open("w", encoding="utf-8", newline="")
        self.at_end(stream.close)
        self.files.append(path)
        return stream

    def at_end(self, close: Callable[[], None]) -> None:
        """Register a function to call when all predictions are written."""
        self._closers.append(close)

    def path(self, name: str) -> Path:
        """Return the path of a new file in the folder; missing folders are made."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        self.files.append(path)
        return path

    def __enter__(self) -> Self:
        """Return the folder itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close open files; if the input was unusable, remove what was written."""
        for close in self._closers:
            close()
        if isinstance(error, InputError):
            for entry in [*self.folder.iterdir()]:
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
            if not self._existed:
                self.folder.rmdir()


def _json(folder: OutputFolder) -> Callable[[Prediction], None]:
    """Write one object per line: the picture's name and its faces."""
    stream = folder.stream("predictions.jsonl")

    def write(prediction: Prediction) -> None:
        faces = [face_record(face) for face in prediction.faces]
        stream.write(json.dumps({"name": prediction.name, "faces": faces}) + "\n")

    return write


def _csv(folder: OutputFolder) -> Callable[[Prediction], None]:
    """Write one row per point."""
    writer = csv.writer(folder.stream("points.csv"))
    writer.writerow(["name", "face", "point", "label", "x", "y", "score"])

    def write(prediction: Prediction) -> None:
        for number, face in enumerate(prediction.faces):
            rows = zip(NAMES, face.points.tolist(), face.scores.tolist(), strict=True)
            for index, (label, (x, y), score) in enumerate(rows):
                row = [index, label, f"{x:.2f}", f"{y:.2f}", f"{score:.3f}"]
                writer.writerow([prediction.name, number if face.track < 0 else face.track, *row])

    return write


def _each(suffix: str, below: str, render: Callable[[Prediction, FoundFace], bytes]) -> Any:
    """Make a writer of one file per face: `<picture><suffix>`, then `<picture>.1<suffix>` (or by track)."""

    def start(folder: OutputFolder) -> Callable[[Prediction], None]:
        def write(prediction: Prediction) -> None:
            for number, face in enumerate(prediction.faces):
                which = number if face.track < 0 else face.track
                middle = f".{which}" if which else ""
                path = folder.path(f"{below}/{prediction.name}{middle}{suffix}")
                path.write_bytes(render(prediction, face))

        return write

    return start


def _overlay(folder: OutputFolder) -> Callable[[Prediction], None]:
    def write(prediction: Prediction) -> None:
        drawn = draw_faces(prediction)
        suffix = Path(prediction.name).suffix.lower()
        name = prediction.name if suffix in {".jpg", ".jpeg", ".png"} else f"{prediction.name}.jpg"
        folder.path(f"overlays/{name}").write_bytes(encode_image(drawn, Path(name).suffix.lower()))

    return write


def draw_faces(prediction: Prediction) -> Image:
    """Draw boxes and points of every face on a copy of the picture."""
    drawn = prediction.image.copy()
    for face in prediction.faces:
        left, top, right, bottom = (round(float(v)) for v in face.box)
        cv2.rectangle(drawn, (left, top), (right, bottom), (90, 90, 90), 1)
        drawn = draw_points(drawn, face.points)
    return drawn


def align_face(image: Image, points: Points, size: int = CROP) -> Image:
    """Cut out a face with level eyes, `(size, size, 3)`, as wide as the challenge's boxes."""
    left, right = points[66:74].mean(0), points[75:83].mean(0)  # the lids
    angle = float(np.arctan2(right[1] - left[1], right[0] - left[0]))
    cos, sin = np.cos(angle), np.sin(angle)
    turn = np.array([[cos, sin], [-sin, cos]])
    level = (points @ turn.T).astype(np.float32)
    box = official_box(level)
    side = float((box[2:] - box[:2]).max())
    centre = turn.T @ ((box[:2] + box[2:]) / 2)
    linear = turn.T * (side / size)
    offset = centre - linear @ np.full(2, (size - 1) / 2)
    matrix = np.concatenate([linear, offset[:, None]], axis=1)
    flags = cv2.INTER_AREA | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(image, matrix, (size, size), flags=flags), np.uint8)


def _video(folder: OutputFolder) -> Callable[[Prediction], None]:
    """Write one video of the frames with their boxes and points."""
    writer = cv2.VideoWriter()
    folder.at_end(writer.release)

    def write(prediction: Prediction) -> None:
        if not prediction.rate:
            raise UsageError(f"`format` video goes with a video, not with {prediction.name}")
        drawn = cv2.cvtColor(draw_faces(prediction), cv2.COLOR_RGB2BGR)
        if not writer.isOpened():
            path, code = folder.path("overlay.mp4"), cv2.VideoWriter.fourcc(*"mp4v")
            writer.open(str(path), code, prediction.rate, (drawn.shape[1], drawn.shape[0]))
        writer.write(drawn)

    return write


KINDS: dict[str, Callable[[OutputFolder], Callable[[Prediction], None]]] = {
    "json": _json,
    "csv": _csv,
    "txt": _each(".txt", "txt", lambda _, face: write_points_txt(face.points).encode()),
    "pts": _each(".pts", "pts", lambda _, face: write_pts(face.points).encode()),
    "overlay": _overlay,
    "video": _video,
    "crops": _each(".png", "crops", lambda p, face: encode_image(align_face(p.image, face.points), ".png")),
}
"""Formats of `mmtk landmarks predict`."""
