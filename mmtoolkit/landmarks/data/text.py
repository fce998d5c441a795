"""Parse and write the small text files: JD `.txt` and `.rect`, iBUG `.pts`, weights.

Whole numbers and floats, LF and CRLF, a missing last newline are all taken. What is refused is named
with its line: another number of points, NaN, a box without area.
"""

import zipfile
import zlib
from pathlib import Path

import numpy as np

from mmtoolkit.core.errors import DataError
from mmtoolkit.landmarks.data.face import Boxes
from mmtoolkit.landmarks.data.points import COUNT, SCHEMES, Points

Place = Path | zipfile.Path
"""A file or folder on the disk or inside a zip."""


def place_name(place: Place) -> Path:
    """Return the path that a message shows; inside a zip, `archive.zip/member`."""
    return Path(str(place))


def read_bytes(place: Place) -> bytes:
    """Read a file on the disk or a member of a zip.

    Raises:
        DataError: if it is missing, or the member is damaged or needs a password.
    """
    try:
        return place.read_bytes()
    except (FileNotFoundError, KeyError):
        raise DataError("no such file", path=place_name(place)) from None
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", path=place_name(place)) from None
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError):
        reason = "its place in the zip is damaged or needs a password; pack the zip anew"
        raise DataError(f"cannot be read: {reason}", path=place_name(place)) from None


def read_lines(place: Place) -> list[str]:
    """Read a text file as stripped lines, without empty ones at its end.

    Raises:
        DataError: if it cannot be read or is not text.
    """
    try:
        text = read_bytes(place).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError("cannot be read as text", path=place_name(place)) from None
    return [line.strip() for line in text.rstrip().splitlines()]


def read_points_txt(place: Place, count: int = COUNT) -> Points:
    """Read a JD landmark file: a line with the number of points, then a line `x y` for each.

    Raises:
        DataError: if there are not `count` points of two finite numbers.
    """
    lines = read_lines(place)
    if not lines or lines[0] != str(count):
        first = lines[0] if lines else "an empty file"
        raise DataError(f"begins with '{first}', not with {count}", path=place_name(place), line=1)
    if len(lines) != count + 1:
        raise DataError(f"holds {len(lines) - 1} points, not {count}", path=place_name(place))
    return _numbers(lines[1:], 2, place, 2)


def write_points_txt(points: Points) -> str:
    """Format points `(n, 2)` as a JD landmark file."""
    rows = [f"{x:.3f} {y:.3f}" for x, y in points.tolist()]
    return "\n".join([str(len(rows)), *rows]) + "\n"


def read_rect(place: Place) -> Boxes:
    """Read a JD `.rect` file: `left top right bottom`.

    Raises:
        DataError: if it is not four numbers, or the box has no area.
    """
    lines = read_lines(place)
    box: Boxes = _numbers(lines[:1] or [""], 4, place, 1)[0]
    if box[2] <= box[0] or box[3] <= box[1]:
        raise DataError("the box has no area; write left top right bottom", path=place_name(place), line=1)
    return box


def write_rect(box: Boxes) -> str:
    """Format a box as a `.rect` file."""
    return " ".join(f"{value:.2f}" for value in box.tolist()) + "\n"


def read_weights(place: Place) -> Points:
    """Read a weight file: 106 lines, each a weight in [0, 1].

    Raises:
        DataError: if there are not as many, or one lies outside.
    """
    lines = read_lines(place)
    if len(lines) != COUNT:
        raise DataError(f"holds {len(lines)} weights, not {COUNT}", path=place_name(place))
    weights = _numbers(lines, 1, place, 1)[:, 0]
    if weights.min() < 0 or weights.max() > 1:
        line = int(np.argmax((weights < 0) | (weights > 1))) + 1
        raise DataError("a weight lies in [0, 1]", path=place_name(place), line=line)
    return weights


def write_weights(weights: Points) -> str:
    """Format weights `(106,)` as a weight file."""
    return "".join(f"{value:.4g}\n" for value in weights.tolist())


def read_pts(place: Place) -> tuple[Points, str]:
    """Read an iBUG `.pts` file and tell the scheme by its number of points.

    Raises:
        DataError: if it is malformed or has a number of points that no scheme has.
    """
    lines = read_lines(place)
    if "{" not in lines or lines[-1] != "}":
        raise DataError("an iBUG file holds its points between { and }", path=place_name(place))
    start = lines.index("{") + 1
    rows = lines[start:-1]
    scheme = scheme_of(len(rows))
    if not scheme:
        raise DataError(f"holds {len(rows)} points; 68, 98 or 106 are known", path=place_name(place))
    return _numbers(rows, 2, place, start + 1), scheme


def write_pts(points: Points) -> str:
    """Format points `(n, 2)` as an iBUG `.pts` file."""
    rows = "\n".join(f"{x:.3f} {y:.3f}" for x, y in points.tolist())
    return f"version: 1\nn_points: {len(points)}\n{{\n{rows}\n}}\n"


def scheme_of(count: int) -> str:
    """Return the first scheme with this number of points, or an empty string."""
    return next((name for name, number in SCHEMES.items() if number == count), "")


def to_floats(values: object) -> Points:
    """Turn numbers or texts into float32; inf where one is too large, no number at all if one is none."""
    with np.errstate(over="ignore"):
        try:
            return np.array(values, np.float64).astype(np.float32)
        except (ValueError, TypeError, OverflowError):
            return np.empty(0, np.float32)


def _numbers(lines: list[str], width: int, place: Place, first_line: int) -> Points:
    found = np.empty((len(lines), width), np.float32)
    for row, line in enumerate(lines):
        values = to_floats(line.split())
        if values.shape != (width,) or not np.isfinite(values).all():
            wanted = "a number" if width == 1 else f"{width} finite numbers"
            raise DataError(f"'{line}' is not {wanted}", path=place_name(place), line=first_line + row)
        found[row] = values
    return found
