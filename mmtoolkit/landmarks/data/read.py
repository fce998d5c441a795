"""Read data sets: JD and LaPa folders and zips, iBUG `.pts` beside pictures, WFLW lists, COCO keypoints."""

import csv
import json
import math
import zipfile
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np

from mmtoolkit.core.errors import DataError
from mmtoolkit.landmarks.data import text
from mmtoolkit.landmarks.data.face import Boxes, Face, official_box
from mmtoolkit.landmarks.data.images import PICTURES, read_image
from mmtoolkit.landmarks.data.points import SCHEMES, Points, conversion
from mmtoolkit.landmarks.data.text import AnyPath, shown_path


@dataclass(frozen=True, eq=False)
class Annotation:
    """A labelled face whose picture has not been read yet.

    Attributes:
        name: name of the picture within its data set, such as `AFW_1.jpg`.
        picture: file of the picture.
        points: `(n, 2)` in the order of `scheme`, pixels.
        weights: `(n,)`, 0 where a point is not labelled.
        scheme: one of :data:`mmtoolkit.landmarks.data.points.SCHEMES`.
        box: given with the picture, or else the true box, widened like the official ones.
        yaw: degrees; None if unknown.
        pitch: degrees; None if unknown.
        roll: degrees; None if unknown.
        expression: empty if unknown.
    """

    name: str
    picture: AnyPath
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
            DataError: if it cannot be read, or the labels hold too few of the 106 points.
        """
        points, weights = self.jd
        if not _spans(points, weights):
            raise DataError(f"{self.name}: its labels hold too few of the 106 points; remove it")
        image = read_image(self.picture)
        meta = (self.yaw, self.pitch, self.roll, self.expression)
        return Face(self.name, image, points, weights, self.box, *meta)


def read_annotations(path: Path) -> list[Annotation]:
    """Read a data set in any known format, sorted by name.

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
    root = open_folder(path)
    folders = [root, *walk(root)]
    kinds = [("picture", "landmark"), ("images", "landmarks")]
    found = [(folder, *names) for folder in folders for names in kinds if (folder / names[1]).is_dir()]
    if found:
        return (item for one in found for item in _read_jd(*one))
    return (item for folder in folders for item in read_ibug(folder))


def open_folder(path: Path) -> AnyPath:
    """Open a folder, or a zip like a folder.

    Raises:
        DataError: if it is another file, or a damaged zip.
    """
    try:
        return zipfile.Path(path) if path.is_file() else path
    except zipfile.BadZipFile as error:
        raise DataError(f"neither a folder nor a zip that can be read: {error}", path=path) from None


def walk(root: AnyPath) -> Iterator[AnyPath]:
    """Yield every folder below one, sorted; hidden ones are left out."""
    entries: list[AnyPath] = [*root.iterdir()]
    for entry in sorted(entries, key=str):
        if entry.is_dir() and not entry.name.startswith("."):
            yield entry
            yield from walk(entry)


def _files(folder: AnyPath, suffixes: tuple[str, ...]) -> dict[str, AnyPath]:
    """Return the files of a folder with some suffixes by name; none if there is no such folder."""
    if not folder.is_dir():
        return {}
    entries = (entry for entry in folder.iterdir() if not entry.name.startswith("."))
    return {e.name: e for e in entries if e.name.lower().endswith(suffixes) and e.is_file()}


def _read_jd(root: AnyPath, pictures: str, landmarks: str) -> Iterator[Annotation]:
    """Read `picture/`, `landmark/` and the optional `rect/`, `weight/` and `poses.csv`."""
    images = _files(root / pictures, PICTURES)
    labels = _files(root / landmarks, (".txt",))
    poses = _read_poses(root / "poses.csv")
    for name in sorted(images):
        label = labels.pop(f"{name}.txt", None) or labels.pop(f"{Path(name).stem}.txt", None)
        if label is None:
            raise DataError(f"no landmark file for picture {name}", path=shown_path(root / landmarks))
        points = text.read_points_txt(label)
        weight, rect = root / "weight" / f"{name}.txt", root / "rect" / f"{name}.rect"
        weights = text.read_weights(weight) if weight.is_file() else np.ones(len(points), np.float32)
        given = text.read_rect(rect) if rect.is_file() else None
        box = _box_of(points, weights, given, weight if weight.is_file() else label)
        yield Annotation(name, images[name], points, weights, "jd106", box, **poses.get(name, {}))
    if labels:
        raise DataError(f"no picture for {min(labels)}", path=shown_path(root / pictures))


def _read_poses(path: AnyPath) -> dict[str, dict[str, Any]]:
    """Read `name,yaw,pitch,roll,expression`; empty cells are unknown."""
    if not path.is_file():
        return {}
    rows = csv.DictReader(text.read_lines(path))
    found = {}
    try:
        for row in rows:
            angles = {key: _angle(row[key]) for key in ("yaw", "pitch", "roll")}
            found[row["name"]] = angles | {"expression": row["expression"] or ""}
    except (KeyError, ValueError, TypeError, csv.Error):
        wanted = "expected name,yaw,pitch,roll,expression with finite degrees"
        raise DataError(wanted, path=shown_path(path), line=max(1, rows.line_num)) from None
    return found


def _angle(cell: str) -> float | None:
    """Read degrees; an empty cell is unknown."""
    angle = float(cell) if cell else None
    if angle is not None and not math.isfinite(angle):
        raise ValueError(cell)
    return angle


def read_ibug(folder: AnyPath) -> Iterator[Annotation]:
    """Read `<picture>.pts`, with or without the picture's suffix, and the optional `<picture>.rect`."""
    labels = _files(folder, (".pts",))
    if not labels:
        return
    images, named = _files(folder, PICTURES), defaultdict[str, list[str]](list)
    for image in sorted(images):
        named[image].append(image)
        named[Path(image).stem].append(image)
    for name, label in sorted(labels.items()):
        stem = Path(name).stem
        beside = [image for image in named[stem] if image in images]
        if not beside:
            raise DataError(f"no picture {stem}.jpg or .png beside it", path=shown_path(label))
        if len(beside) > 1:
            names = " or ".join(f"{image}.pts" for image in beside)
            raise DataError(f"{len(beside)} pictures have its name; call it {names}", path=shown_path(label))
        picture = images.pop(beside[0])
        points, scheme = text.read_pts(label)
        weights = np.ones(len(points), np.float32)
        rects = [folder / f"{n}.rect" for n in (picture.name, stem)]
        given = next((text.read_rect(r) for r in rects if r.is_file()), None)
        box = _box_of(points, weights, given, label)
        yield Annotation(picture.name, picture, points, weights, scheme, box)
    if images:
        raise DataError(f"no .pts for picture {min(images)}", path=shown_path(folder))


def read_wflw(path: Path) -> Iterator[Annotation]:
    """Read a WFLW list: a line of 98 points, box, six attributes and the picture for each face.

    Pictures are searched in the folder of the list, in `WFLW_images` below it, and in three folders above.
    """
    width = 2 * SCHEMES["wflw98"]
    for number, line in enumerate(text.read_lines(path), start=1):
        cells = line.split()
        values = text.to_floats(cells[: width + 10])
        if len(cells) != width + 11 or len(values) != width + 10 or not np.isfinite(values).all():
            raise DataError(f"expected {width + 10} numbers and a picture", path=path, line=number)
        points, box = values[:width].reshape(-1, 2), values[width : width + 4]
        if not _has_area(box):
            raise DataError("the box has no area", path=path, line=number)
        roots = [root for parent in list(path.parents)[:4] for root in (parent, parent / "WFLW_images")]
        picture = next((root / cells[-1] for root in roots if (root / cells[-1]).is_file()), None)
        if picture is None:
            raise DataError(f"picture {cells[-1]} not found", path=path, line=number)
        expression = "expression" if values[width + 5] else ""
        name, weights = f"{number}_{picture.name}", np.ones(len(points), np.float32)
        box = _box_of(points, weights, box, path, line=number)
        yield Annotation(name, picture, points, weights, "wflw98", box, expression=expression)


def read_coco(path: Path) -> Iterator[Annotation]:
    """Read COCO keypoints: `keypoints` of 68, 98 or 106 triples x, y, visibility (0: not labelled)."""
    try:
        content = json.loads(text.read_bytes(path))
        pictures = {image["id"]: image["file_name"] for image in content["images"]}
        annotations = [
            (a["id"], pictures[a["image_id"]], a["keypoints"], a.get("bbox")) for a in content["annotations"]
        ]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"not COCO keypoints ({error!r})", path=path) from None
    for number, file, keypoints, bbox in annotations:
        if not isinstance(file, str):
            raise DataError(f"annotation {number}: file_name {file!r} is no name", path=path)
        triples = text.to_floats(keypoints)
        scheme = text.scheme_of(triples.size // 3) if triples.ndim == 1 and triples.size % 3 == 0 else ""
        box = None if bbox is None else _corners(text.to_floats(bbox))
        if not scheme or not np.isfinite(triples).all() or (box is not None and not _has_area(box)):
            raise DataError(
                f"annotation {number} needs 68, 98 or 106 finite points and a box with area", path=path
            )
        triples = triples.reshape(-1, 3)
        points, weights = np.ascontiguousarray(triples[:, :2]), (triples[:, 2] > 0).astype(np.float32)
        box = _box_of(points, weights, box, path, f"annotation {number}: ")
        yield Annotation(f"{number}_{Path(file).name}", path.parent / file, points, weights, scheme, box)


def _corners(size: Boxes) -> Boxes:
    """Turn left, top, width and height into left, top, right and bottom."""
    return np.concatenate([size[:2], size[:2] + size[2:]]) if size.shape == (4,) else size


def _has_area(box: Boxes) -> bool:
    return box.shape == (4,) and bool(np.isfinite(box).all() and (box[2:] > box[:2]).all())


def _box_of(
    points: Points,
    weights: Points,
    given: Boxes | None,
    path: AnyPath,
    what: str = "",
    line: int | None = None,
) -> Boxes:
    """Return the given box of a face, or the widened box around its points.

    Raises:
        DataError: if the labelled points have no extent, so that the face cannot be cut out or scored.
    """
    if not _spans(points, weights):
        why = "are on one spot or line" if (weights > 0).any() else "are all left out"
        raise DataError(f"{what}no face: its points {why}; remove it", path=shown_path(path), line=line)
    return official_box(points, weights) if given is None else given


def _spans(points: Points, weights: Points) -> bool:
    """Return whether the labelled points have a width and a height."""
    labelled = points[weights > 0]
    return len(labelled) > 0 and bool(np.ptp(labelled, axis=0).all())


def unique_names(names: Iterable[str]) -> None:
    """Refuse pictures that share a name, for uses that identify them by it.

    Raises:
        DataError: naming the first.
    """
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise DataError(f"two pictures are called {name}; rename one, or use their folders separately")
        seen.add(name)
