"""Write data sets and predictions in the formats that :mod:`mmtoolkit.landmarks.data.read` reads."""

import csv
import json
import os
import shutil
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from mmtoolkit.core.errors import DataError, UsageError
from mmtoolkit.core.run import check_new
from mmtoolkit.landmarks.data import text
from mmtoolkit.landmarks.data.face import Face
from mmtoolkit.landmarks.data.images import encode_image
from mmtoolkit.landmarks.data.points import SCHEMES, Points, conversion
from mmtoolkit.landmarks.data.read import Annotation, unique_names


def new_folder(path: Path) -> Path:
    """Make a folder that must be new or empty.

    Raises:
        UsageError: if something is in it, or it cannot be made.
    """
    check_new(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"`output` {path}: cannot be made: {error.strerror}") from None
    return path


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Fill a folder that must be new or empty; on an error, nothing is left of it.

    Yields:
        A hidden folder inside it, whose content moves up at the end.

    Raises:
        UsageError: if something is in it, or it cannot be made.
    """
    existed = path.exists()
    part = new_folder(path) / ".part"
    part.mkdir()
    try:
        yield part
        for entry in [*part.iterdir()]:
            entry.rename(path / entry.name)
        part.rmdir()
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        if not existed:
            path.rmdir()
        raise


def write_jd(folder: Path, faces: Iterable[Face]) -> int:
    """Write faces as a JD data set: `picture/`, `landmark/`, `rect/`, and optional files.

    `weight/` holds the weights of partly labelled faces, `poses.csv` angles and expressions.
    :func:`mmtoolkit.landmarks.data.read.read_annotations` reads the set. Nothing is left if `faces` fails.

    Returns:
        The number of faces written.
    """
    with whole_folder(folder) as part:
        return _fill_jd(part, faces)


def _fill_jd(folder: Path, faces: Iterable[Face]) -> int:
    for name in ("picture", "landmark", "rect", "weight"):
        (folder / name).mkdir()
    rows = []
    for face in faces:
        if (folder / "picture" / face.name).exists():
            raise DataError(f"two pictures would be called {face.name}; rename one")
        (folder / "picture" / face.name).write_bytes(encode_image(face.image, Path(face.name).suffix))
        (folder / "landmark" / f"{face.name}.txt").write_text(text.write_points_txt(face.points))
        (folder / "rect" / f"{face.name}.rect").write_text(text.write_rect(face.box))
        if (face.weights < 1).any():
            (folder / "weight" / f"{face.name}.txt").write_text(text.write_weights(face.weights))
        rows.append([face.name, face.yaw, face.pitch, face.roll, face.expression])
    with (folder / "poses.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([["name", "yaw", "pitch", "roll", "expression"], *rows])
    return len(rows)


def convert_set(annotations: Sequence[Annotation], target: Path, scheme: str, kind: str) -> int:
    """Write the labels of a data set in another scheme and format.

    Args:
        annotations: from :func:`mmtoolkit.landmarks.data.read.read_annotations`.
        target: file to write (`coco`, `wflw`, `csv`) or new folder (`txt`, `pts`).
        scheme: scheme of the points to write.
        kind: a key of :data:`WRITERS`.

    Returns:
        The number of faces written.

    Raises:
        DataError: if a point is unknown and the format cannot mark it, or pictures share a name that the
            format uses for their labels.
        UsageError: if the format holds another number of points.
    """
    if kind in COUNTS and SCHEMES[scheme] != COUNTS[kind]:
        raise UsageError(
            f"`scheme` {scheme} has {SCHEMES[scheme]} points, `format` {kind} holds {COUNTS[kind]}; "
            "write pts, csv or coco"
        )
    if kind == "wflw":  # the list names a picture, which may hold several faces, without its folder
        unique_names(
            picture.name for picture in {str(item.picture): item.picture for item in annotations}.values()
        )
    elif kind != "coco":
        unique_names(item.name for item in annotations)
    items = []
    for item in annotations:
        points, known = conversion(item.scheme, scheme)(item.points, item.weights > 0)
        if kind in {"pts", "txt", "wflw"} and not known.all():
            raise DataError(
                f"{item.name}: {int((~known).sum())} of {len(known)} {scheme} points have no twin in "
                f"{item.scheme}; use `format` coco or csv, which can leave points out"
            )
        items.append((item, points, known))
    if kind in {"pts", "txt"}:
        new_folder(target)
    WRITERS[kind](target, items)
    return len(items)


Converted = tuple[Annotation, Points, np.ndarray]


def _write_txt(target: Path, items: Sequence[Converted]) -> None:
    for item, points, _ in items:
        (target / f"{item.name}.txt").write_text(text.write_points_txt(points))


def _write_pts(target: Path, items: Sequence[Converted]) -> None:
    stems = Counter(Path(item.name).stem for item, _, _ in items)
    for item, points, _ in items:
        stem = Path(item.name).stem
        name = stem if stems[stem] == 1 else item.name  # a.jpg beside a.png
        (target / f"{name}.pts").write_text(text.write_pts(points))


def _write_wflw(target: Path, items: Sequence[Converted]) -> None:
    lines = []
    for item, points, _ in items:
        numbers = [f"{value:.4f}" for value in points.ravel().tolist()]
        box = [f"{value:.0f}" for value in item.box.tolist()]
        lines.append(" ".join([*numbers, *box, *"000000", item.picture.name]))
    target.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _write_csv(target: Path, items: Sequence[Converted]) -> None:
    with target.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["name", "point", "x", "y"])
        for item, points, known in items:
            rows = zip(points.tolist(), known.tolist(), strict=True)
            writer.writerows(
                [item.name, i, f"{x:.3f}", f"{y:.3f}"] for i, ((x, y), k) in enumerate(rows) if k
            )


def _write_coco(target: Path, items: Sequence[Converted]) -> None:
    images, annotations = [], []
    for number, (item, points, known) in enumerate(items, start=1):
        left, top, right, bottom = (round(value, 2) for value in item.box.tolist())
        triples = np.concatenate([points, 2.0 * known[:, None]], axis=1)
        images.append({"id": number, "file_name": _relative(item.picture, target.parent)})
        annotations.append(
            {
                "id": number,
                "image_id": number,
                "category_id": 1,
                "bbox": [left, top, round(right - left, 2), round(bottom - top, 2)],
                "keypoints": [round(value, 3) for value in triples.ravel().tolist()],
                "num_keypoints": int(known.sum()),
            }
        )
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "face"}]}
    target.write_text(json.dumps(content), encoding="utf-8")


def _relative(picture: text.AnyPath, folder: Path) -> str:
    """Return the path of a picture relative to the list's folder; for a picture in a zip, its name."""
    if isinstance(picture, zipfile.Path):
        return picture.name
    return Path(os.path.relpath(picture, folder)).as_posix()


SUFFIXES = {"wflw": ".txt", "csv": ".csv", "coco": ".json"}
"""Suffixes of the formats that are single files; the others are folders."""
COUNTS = {"txt": 106, "wflw": 98}
"""Number of points of the formats that fix it."""
WRITERS: dict[str, Callable[[Path, Sequence[Converted]], None]] = {
    "txt": _write_txt,
    "pts": _write_pts,
    "wflw": _write_wflw,
    "csv": _write_csv,
    "coco": _write_coco,
}
"""Formats of `mmtk landmarks convert`."""
