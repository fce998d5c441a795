"""Read data sets: JD and LaPa folders and zips, iBUG `.pts` beside pictures, WFLW lists, COCO keypoints."""

import csv
import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np

from mmtoolkit.core.errors import DataError
from mmtoolkit.landmarks.data import text
from mmtoolkit.landmarks.data.face import Boxes, Face, official_box
from mmtoolkit.landmarks.data.images import PICTURES, read_image
from mmtoolkit.landmarks.data.text import Place, place_name
from mmtoolkit.landmarks.points import SCHEMES, Points, conversion


@dataclass(frozen=True, eq=False)
class Annotation:
    """A labelled face whose picture has not been read yet.

    Attributes:
        name: name of the picture within its data set, such as `AFW_1.jpg`.
        picture: where the picture is.
        points: `(n, 2)` in the order of `scheme`, pixels.
        weights: `(n,)`, 0 where a point is not labelled.
        scheme: one of :data:`mmtoolkit.landmarks.points.SCHEMES`.
        box: given with the picture, or the true box widened as the official ones are.
        yaw: degrees, likewise `pitch` and `roll`; None if unknown.
        expression: empty if unknown.
    """

    name: str
    picture: Place
    points: Points
    weights: Points
    scheme: str
    box: Boxes
    yaw: float | None = None
    pitch: float | None = None
    roll: float | None = None
    expression: str = ""

    @classmethod
    def of(cls, face: Face) -> Self:
        """Keep the labels of a face whose picture is in memory, without the picture."""
        meta = (face.yaw, face.pitch, face.roll, face.expression)
        return cls(face.name, Path(face.name), face.points, face.weights, "jd106", face.box, *meta)

    @cached_property
    def jd(self) -> tuple[Points, Points]:
        """Points `(106, 2)` and weights `(106,)` in JD order."""
        if self.scheme == "jd106":
            return self.points, self.weights
        points, known = conversion(self.scheme, "jd106")(self.points, self.weights > 0)
        return points, known.astype(np.float32)

    def face(self) -> Face:
        """Read the picture.

        Raises:
            DataError: if that cannot be done.
        """
        points, weights = self.jd
        image = read_image(self.picture)
        meta = (self.yaw, self.pitch, self.roll, self.expression)
        return Face(self.name, image, points, weights, self.box, *meta)


def read_annotations(path: Path) -> list[Annotation]:
    """Read a data set in whichever known format it is, sorted by name.

    Args:
        path: JD or LaPa folder or zip, folder of `.pts` beside pictures, WFLW list (`.txt`), COCO keypoints
            (`.json`).

    Raises:
        DataError: if it is none of them, empty or malformed.
    """
    if not path.exists():
        raise DataError(f"{path}: no such file or folder")
    found = sorted(_reader(path), key=lambda item: item.name)
    if not found:
        raise DataError("no labelled face found (JD, LaPa, .pts, WFLW and COCO are known)", path=path)
    return found


def _reader(path: Path) -> Iterator[Annotation]:
    if path.suffix == ".json":
        return read_coco(path)
    if path.suffix == ".txt":
        return read_wflw(path)
    if path.is_file() and not zipfile.is_zipfile(path):
        raise DataError("neither a zip nor a list (.txt) nor COCO keypoints (.json)", path=path)
    root = open_place(path)
    folders = [root, *walk(root)]
    kinds = [("picture", "landmark"), ("images", "landmarks")]
    places = [(folder, *names) for folder in folders for names in kinds if (folder / names[1]).is_dir()]
    if places:
        return (item for place in places for item in _read_jd(*place))
    return (item for folder in folders for item in read_ibug(folder))


def open_place(path: Path) -> Place:
    """Open a folder, or a zip as if it were one."""
    return zipfile.Path(path) if path.is_file() else path


def walk(root: Place) -> Iterator[Place]:
    """Yield every folder below one, sorted; hidden ones are left out."""
    entries: list[Place] = [*root.iterdir()]
    for entry in sorted(entries, key=str):
        if entry.is_dir() and not entry.name.startswith("."):
            yield entry
            yield from walk(entry)


def _files(folder: Place, suffixes: tuple[str, ...]) -> dict[str, Place]:
    """Return the files of a folder with some suffixes by name; none if there is no such folder."""
    if not folder.is_dir():
        return {}
    entries = (entry for entry in folder.iterdir() if not entry.name.startswith("."))
    return {e.name: e for e in entries if e.name.lower().endswith(suffixes) and e.is_file()}


def _read_jd(root: Place, pictures: str, landmarks: str) -> Iterator[Annotation]:
    """Read `picture/`, `landmark/` and, where they are there, `rect/`, `weight/` and `poses.csv`."""
    images = _files(root / pictures, PICTURES)
    labels = _files(root / landmarks, (".txt",))
    poses = _read_poses(root / "poses.csv")
    for name in sorted(images):
        label = labels.pop(f"{name}.txt", None) or labels.pop(f"{Path(name).stem}.txt", None)
        if label is None:
            raise DataError(f"no landmark file for picture {name}", path=place_name(root / landmarks))
        points = text.read_points_txt(label)
        weight, rect = root / "weight" / f"{name}.txt", root / "rect" / f"{name}.rect"
        weights = text.read_weights(weight) if weight.is_file() else np.ones(len(points), np.float32)
        box = text.read_rect(rect) if rect.is_file() else official_box(points, weights)
        yield Annotation(name, images[name], points, weights, "jd106", box, **poses.get(name, {}))
    if labels:
        raise DataError(f"no picture for {min(labels)}", path=place_name(root / pictures))


def _read_poses(place: Place) -> dict[str, dict[str, Any]]:
    """Read `name,yaw,pitch,roll,expression`; empty cells are unknown."""
    if not place.is_file():
        return {}
    rows = csv.DictReader(text.read_lines(place))
    found = {}
    for number, row in enumerate(rows, start=2):
        try:
            angles = {key: float(row[key]) if row[key] else None for key in ("yaw", "pitch", "roll")}
            found[row["name"]] = angles | {"expression": row["expression"] or ""}
        except (KeyError, ValueError, TypeError):
            wanted = "name,yaw,pitch,roll,expression"
            raise DataError(f"expected {wanted}", path=place_name(place), line=number) from None
    return found


def read_ibug(folder: Place) -> Iterator[Annotation]:
    """Read `.pts` files beside pictures of the same name; boxes from `<picture>.rect` where there."""
    labels = _files(folder, (".pts",))
    if not labels:
        return
    images = {Path(name).stem: image for name, image in _files(folder, PICTURES).items()}
    for name, label in sorted(labels.items()):
        stem = Path(name).stem
        if stem not in images:
            raise DataError(f"no picture {stem}.jpg or .png beside it", path=place_name(label))
        picture = images.pop(stem)
        points, scheme = text.read_pts(label)
        rects = [folder / f"{n}.rect" for n in (picture.name, stem)]
        box = next((text.read_rect(r) for r in rects if r.is_file()), official_box(points))
        yield Annotation(picture.name, picture, points, np.ones(len(points), np.float32), scheme, box)
    if images:
        raise DataError(f"no .pts for picture {min(images.values(), key=str).name}", path=place_name(folder))


def read_wflw(path: Path) -> Iterator[Annotation]:
    """Read a WFLW list: a line of 98 points, box, six attributes and the picture for each face.

    Pictures are looked for beside the list, in `WFLW_images` there, and in up to three folders above.
    """
    width = 2 * SCHEMES["wflw98"]
    for number, line in enumerate(text.read_lines(path), start=1):
        cells = line.split()
        try:
            values = np.array([float(cell) for cell in cells[: width + 10]], np.float32)
        except ValueError:
            values = np.empty(0, np.float32)
        if len(cells) != width + 11 or not np.isfinite(values).all():
            raise DataError(f"expected {width + 10} numbers and a picture", path=path, line=number)
        points, box = values[:width].reshape(-1, 2), values[width : width + 4]
        if (box[2:] <= box[:2]).any():
            raise DataError("the box has no area", path=path, line=number)
        roots = [root for parent in list(path.parents)[:4] for root in (parent, parent / "WFLW_images")]
        picture = next((root / cells[-1] for root in roots if (root / cells[-1]).is_file()), None)
        if picture is None:
            raise DataError(f"picture {cells[-1]} not found", path=path, line=number)
        expression = "expression" if values[width + 5] else ""
        name, weights = f"{number}_{picture.name}", np.ones(len(points), np.float32)
        yield Annotation(name, picture, points, weights, "wflw98", box, expression=expression)


def read_coco(path: Path) -> Iterator[Annotation]:
    """Read COCO keypoints: `keypoints` of 68, 98 or 106 triples x, y, visibility (0: not labelled)."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        pictures = {image["id"]: image["file_name"] for image in content["images"]}
        annotations = [
            (a["id"], pictures[a["image_id"]], a["keypoints"], a.get("bbox")) for a in content["annotations"]
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"not COCO keypoints ({error!r})", path=path) from None
    for number, file, keypoints, bbox in annotations:
        try:
            triples = np.array(keypoints, np.float32).reshape(-1, 3)
            size = None if bbox is None else np.array(bbox, np.float32).reshape(4)
        except (ValueError, TypeError):
            triples, size = np.full((1, 3), np.nan, np.float32), None
        scheme = text.scheme_of(len(triples))
        if not scheme or not np.isfinite(triples).all() or (size is not None and (size[2:] <= 0).any()):
            raise DataError(
                f"annotation {number} needs 68, 98 or 106 finite points and a box with area", path=path
            )
        weights = (triples[:, 2] > 0).astype(np.float32)
        points = np.ascontiguousarray(triples[:, :2])
        box = (
            official_box(points, weights) if size is None else np.concatenate([size[:2], size[:2] + size[2:]])
        )
        yield Annotation(f"{number}_{Path(file).name}", path.parent / file, points, weights, scheme, box)
