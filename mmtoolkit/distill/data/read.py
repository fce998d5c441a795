"""Readers of pictures with texts: folders, tables, `.npz`, webdataset tars and the embedded set."""

import csv
import io
import json
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from mmtoolkit.core.arrays import read_npz
from mmtoolkit.core.errors import DataError
from mmtoolkit.distill.config import SHAPES, DataSettings
from mmtoolkit.distill.data.synthetic import make_shapes

Kind = Literal["caption", "class", "none"]
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
SHAPES_COUNT = 20_000
FORMATS = "a folder of pictures, an .npz or a webdataset .tar"


@dataclass(frozen=True)
class Pictures:
    """A set of pictures, opened one by one when they are needed.

    Attributes:
        name: name of the set, for messages.
        names: origin of each picture, for messages.
        texts: caption or class of each picture; empty strings if `kind` is none.
        kind: whether the texts are captions or classes.
        load: opens a picture by index, in RGB.
        size: side in pixels, if all pictures of the set are squares of that size.
    """

    name: str
    names: Sequence[str]
    texts: Sequence[str]
    kind: Kind
    load: Callable[[int], Image.Image]
    size: int | None = None

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self.texts)

    def pixels(self, index: int, size: int) -> NDArray[np.uint8]:
        """Return the centre square of a picture, scaled to `(size, size, 3)`, in 0..255."""
        return fit_square(self.load(index), size)


def fit_square(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """Return the centre square of a picture, scaled to `(size, size, 3)`, in 0..255."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    if image.size != (size, size):
        box = (left, top, left + side, top + side)
        image = image.resize((size, size), Image.Resampling.LANCZOS, box=box)
    return np.asarray(image, np.uint8)


def open_pictures(settings: DataSettings) -> Pictures:
    """Open the pictures at data.path with their captions or classes.

    Raises:
        DataError: if there are none, they cannot be read, or captions or classes are missing.
    """
    path = settings.path
    if path is None:
        raise DataError(f"no data: name {FORMATS} with `data`, or '{SHAPES}' for the embedded set")
    if str(path) == SHAPES:
        images, captions = make_shapes(SHAPES_COUNT, seed=0)
        found = _from_arrays(SHAPES, images, captions, "caption")
    elif not path.exists():
        raise DataError(f"no such file or folder; `data` takes {FORMATS}", path=path)
    elif path.suffix == ".npz":
        found = _read_npz(path)
    elif path.suffix == ".tar" or (path.is_dir() and any(path.glob("*.tar"))):
        found = _read_tars(sorted(path.glob("*.tar")) if path.is_dir() else [path], settings.condition)
    elif path.is_dir():
        found = _read_folder(path, settings.condition)
    else:
        raise DataError(f"not {FORMATS}", path=path)
    return _checked(found, settings, path)


def _checked(found: Pictures, settings: DataSettings, path: Path) -> Pictures:
    """Check the set against data.condition and data.size; without conditions, remove its texts."""
    wanted = settings.condition
    if not len(found):
        raise DataError("holds no pictures", path=path)
    if wanted == "none":
        return replace(found, kind="none", texts=[""] * len(found))
    if wanted not in ("auto", found.kind):
        raise DataError(f"data.condition is '{wanted}', but this set has: {found.kind}", path=path)
    if found.size and settings.size and found.size != settings.size:
        side = f"{found.size} x {found.size}"
        raise DataError(f"pictures are {side}, data.size is {settings.size}; leave data.size out", path=path)
    return found


def _open(source: Path | io.BytesIO, name: str) -> Image.Image:
    try:
        with Image.open(source) as image:
            return image.convert("RGB")
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError) as error:
        reason = "damaged or no picture" if isinstance(error, UnidentifiedImageError) else str(error)
        raise DataError(f"{name}: cannot be read: {reason}; repair or delete it") from None


def _from_arrays(name: str, images: NDArray[np.uint8], texts: Sequence[str], kind: Kind) -> Pictures:
    names = [f"{name}[{index}]" for index in range(len(images))]
    return Pictures(name, names, texts, kind, lambda i: Image.fromarray(images[i]), images.shape[1])


def _read_npz(path: Path) -> Pictures:
    """Read `images` `(n, side, side, 3)` in 0..255, and `captions` or `labels` `(n,)` if there are any."""
    try:
        arrays = read_npz(path)
    except ValueError as error:
        raise DataError(f"not an .npz of plain arrays: {error}", path=path) from None
    images = next((arrays[name] for name in ("images", "arr_0") if name in arrays), None)
    if images is None:
        raise DataError(f"has no array 'images' (it has: {', '.join(arrays) or 'none'})", path=path)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        shape = f"{images.dtype} {images.shape}"
        raise DataError(f"'images' must be uint8 (n, side, side, 3), not {shape}", path=path)
    if images.shape[1] != images.shape[2] or images.shape[1] % 8:
        side = f"{images.shape[1]} x {images.shape[2]}"
        raise DataError(f"pictures are {side}; they must be square, the side a multiple of 8", path=path)
    keys: dict[str, Kind] = {"captions": "caption", "labels": "class", "arr_1": "class"}
    key = next((name for name in keys if name in arrays), None)
    if key is None:
        return _from_arrays(path.name, images, [""] * len(images), "none")
    if arrays[key].shape != images.shape[:1]:
        shapes = f"{arrays[key].shape} for {len(images)} pictures"
        raise DataError(f"'{key}' must have one entry a picture, not {shapes}", path=path)
    return _from_arrays(path.name, images, [str(value) for value in arrays[key]], keys[key])


def _read_folder(path: Path, condition: str) -> Pictures:
    """Read a folder: by its table, with captions in `.txt` files, or with subfolders as classes."""
    for name, reader in (("metadata.jsonl", _jsonl_rows), ("metadata.csv", _csv_rows)):
        if (path / name).is_file():
            return _read_table(path, path / name, list(reader(path / name)))
    files = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES)
    texts: list[str] = []
    kind: Kind = "none"
    with_text = [file.with_suffix(".txt").is_file() for file in files]
    if condition != "class" and (any(with_text) or condition == "caption"):
        kind, texts = "caption", [_caption_beside(file, with_text) for file in files]
    elif files and all(file.parent != path for file in files):
        kind, texts = "class", [file.relative_to(path).parts[0] for file in files]
    return _from_files(path, files, texts or [""] * len(files), kind)


def _caption_beside(file: Path, with_text: Sequence[bool]) -> str:
    text = file.with_suffix(".txt")
    if not text.is_file():
        missing = with_text.count(False)
        raise DataError(
            f"has no caption {text.name} beside it ({missing} of {len(with_text)} pictures lack one)",
            path=file,
            hint="write the captions, or train without them: set data.condition=none",
        )
    return _utf8(text).strip()


def _utf8(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise DataError("not UTF-8 text", path=path) from None


def _from_files(path: Path, files: Sequence[Path], texts: Sequence[str], kind: Kind) -> Pictures:
    names = [str(file) for file in files]
    return Pictures(path.name, names, texts, kind, lambda i: _open(files[i], names[i]))


Row = tuple[int, dict[str, Any]]


def _jsonl_rows(path: Path) -> Iterator[Row]:
    for number, line in enumerate(_utf8(path).splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"not a JSON object: {error.msg}", path=path, line=number) from None
        if not isinstance(row, dict):
            raise DataError("not a JSON object", path=path, line=number)
        yield number, row


def _csv_rows(path: Path) -> Iterator[Row]:
    yield from enumerate(csv.DictReader(io.StringIO(_utf8(path))), 2)


def _read_table(folder: Path, path: Path, rows: Sequence[Row]) -> Pictures:
    """Read `file_name`, and `text`, `caption` or `label`, from each row of a table."""
    keys = rows[0][1] if rows else {}
    key = next((name for name in ("text", "caption", "label") if name in keys), None)
    files, texts = [], []
    for line, row in rows:
        if not row.get("file_name"):
            raise DataError("has no 'file_name'", path=path, line=line)
        if key and row.get(key) in (None, ""):
            raise DataError(f"has no '{key}'", path=path, line=line)
        file = folder / str(row["file_name"])
        if not file.is_file():
            raise DataError(f"no file {file}", path=path, line=line)
        files.append(file)
        texts.append(str(row[key]) if key else "")
    kind: Kind = "none" if key is None else "class" if key == "label" else "caption"
    return _from_files(folder, files, texts, kind)


def _read_tars(paths: Sequence[Path], condition: str) -> Pictures:
    """Read webdataset shards: members with the same name up to the first dot are one sample.

    Only the position of each member is kept; pictures are read from the tar when they are needed.
    """
    samples: list[tuple[Path, str, dict[str, tuple[int, int]]]] = []
    for path in paths:
        try:
            with tarfile.open(path, "r:") as tar:
                grouped: dict[str, dict[str, tuple[int, int]]] = {}
                for member in filter(tarfile.TarInfo.isfile, tar):
                    folder, _, name = member.name.rpartition("/")
                    stem, _, suffix = name.partition(".")
                    key = f"{folder}/{stem}" if folder else stem
                    grouped.setdefault(key, {})[f".{suffix.lower()}"] = (member.offset_data, member.size)
            # a tar ends with a block of zeros; Python's reader accepts one that was cut between members
            if _tar_bytes(path, (tar.offset, tarfile.BLOCKSIZE)) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError("unexpected end of data")
        except (tarfile.TarError, OSError) as error:
            raise DataError(f"not an uncompressed tar: {error}", path=path) from None
        samples += [(path, key, parts) for key, parts in grouped.items() if SUFFIXES & parts.keys()]
    suffixes: dict[str, Kind] = {".txt": "caption", ".cls": "class"}
    if condition in ("caption", "class"):
        suffixes = {suffix: kind for suffix, kind in suffixes.items() if kind == condition}
    found = next((s for s in suffixes if any(s in parts for _, _, parts in samples)), None)
    names = [f"{path}:{key}" for path, key, _ in samples]
    texts = [_tar_text(sample, found) if found else "" for sample in samples]

    def load(index: int) -> Image.Image:
        path, _, parts = samples[index]
        picture = next(parts[suffix] for suffix in sorted(SUFFIXES & parts.keys()))
        return _open(io.BytesIO(_tar_bytes(path, picture)), names[index])

    name = paths[0].stem if len(paths) == 1 else paths[0].parent.name
    return Pictures(name, names, texts, suffixes[found] if found else "none", load)


def _tar_text(sample: tuple[Path, str, dict[str, tuple[int, int]]], suffix: str) -> str:
    path, key, parts = sample
    if suffix not in parts:
        raise DataError(f"sample '{key}' has no {suffix}, others have", path=path)
    try:
        text = _tar_bytes(path, parts[suffix]).decode("utf-8").strip()
    except UnicodeDecodeError:
        raise DataError(f"{key}{suffix} is not UTF-8 text", path=path) from None
    if not text:
        raise DataError(f"{key}{suffix} is empty", path=path)
    return text


def _tar_bytes(path: Path, position: tuple[int, int]) -> bytes:
    """Read the bytes at a position: offset and length."""
    with path.open("rb") as stream:
        stream.seek(position[0])
        return stream.read(position[1])
