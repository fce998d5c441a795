"""Parse and write the small text files: JD `.txt` and `.rect`, iBUG `.pts`, weights.

Whole numbers and floats, LF and CRLF, and a missing last newline are accepted. Another number of points, NaN,
and a box without area are refused with the line.
"""

import zipfile
import zlib
from pathlib import Path

import numpy as np

from mmtoolkit.core.errors import DataError
from mmtoolkit.landmarks.data.face import Boxes
from mmtoolkit.landmarks.data.points import COUNT, SCHEMES, Points

AnyPath = Path | zipfile.Path
"""A file or folder on the disk or inside a zip."""


def shown_path(path: AnyPath) -> Path:
    """Return the path that a message shows; inside a zip, `archive.zip/member`."""
    return Path(str(path))


def read_bytes(path: AnyPath) -> bytes:
    """Read a file on the disk or a member of a zip.

    Raises:
        DataError: if it is missing, or the member is damaged or needs a password.
    """
    try:
        return path.read_bytes()
    except (FileNotFoundError, KeyError):
        raise DataError("no such file", path=shown_path(path)) from None
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", path=shown_path(path)) from None
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError):
        reason = "its entry in the zip is damaged or needs a password; pack the zip again"
        raise DataError(f"cannot be read: {reason}", path=shown_path(path)) from None


def read_lines(path: AnyPath) -> list[str]:
    """Read a text file as stripped lines, without empty ones at its end.

    Raises:
        DataError: if it cannot be read or is not text.
    """
    try:
        text = read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError("cannot be read as text", path=shown_path(path)) from None
    return [line.strip() for line in text.rstrip().splitlines()]


def read_points_txt(path: AnyPath, count: int = COUNT) -> Points:
    """Read a JD landmark file: a line with the number of points, then a line `x y` for each.

    Raises:
        DataError: if there are not `count` points of two finite numbers.
    """
    lines = read_lines(path)
    if not lines or lines[0] != str(count):
        first = lines[0] if lines else "an empty file"
        raise DataError(f"begins with '{first}', not with {count}", path=shown_path(path), line=1)
    if len(lines) != count + 1:
        raise DataError(f"holds {len(lines) - 1} points, not {count}", path=shown_path(path))
    return _numbers(lines[1:], 2, path, 2)


def write_points_txt(points: Points) -> str:
    """Format points `(n, 2)` as a JD landmark file."""
    rows = [f"{x:.3f} {y:.3f}" for x, y in points.tolist()]
    return "\n".join([str(len(rows)), *rows]) + "\n"


def read_rect(path: AnyPath) -> Boxes:
    """Read a JD `.rect` file: `left top right bottom`.

    Raises:
        DataError: if it is not four numbers, or the box has no area.
    """
    lines = read_lines(path)
    box: Boxes = _numbers(lines[:1] or [""], 4, path, 1)[0]
    if box[2] <= box[0] or box[3] <= box[1]:
        raise DataError("the box has no area; write left top right bottom", path=shown_path(path), line=1)
    return box


def write_rect(box: Boxes) -> str:
    """Format a box as a `.rect` file."""
    return " ".join(f"{value:.2f}" for value in box.tolist()) + "\n"


def read_weights(path: AnyPath) -> Points:
    """Read a weight file: 106 lines, each a weight in [0, 1].

    Raises:
        DataError: if their number or the range of one is wrong.
    """
    lines = read_lines(path)
    if len(lines) != COUNT:
        raise DataError(f"holds {len(lines)} weights, not {COUNT}", path=shown_path(path))
    weights = _numbers(lines, 1, path, 1)[:, 0]
    if weights.min() < 0 or weights.max() > 1:
        line = int(np.argmax((weights < 0) | (weights > 1))) + 1
        raise DataError("a weight must be in [0, 1]", path=shown_path(path), line=line)
    return weights


def write_weights(weights: Points) -> str:
    """Format weights `(106,)` as a weight file."""
    return "".join(f"{value:.4g}\n" for value in weights.tolist())


def read_pts(path: AnyPath) -> tuple[Points, str]:
    """Read an iBUG `.pts` file and derive the scheme from its number of points.

    Raises:
        DataError: if it is malformed or no scheme has its number of points.
    """
    lines = read_lines(path)
    if "{" not in lines or lines[-1] != "}":
        raise DataError("an iBUG file holds its points between { and }", path=shown_path(path))
    start = lines.index("{") + 1
    rows = lines[start:-1]
    scheme = scheme_of(len(rows))
    if not scheme:
        raise DataError(f"holds {len(rows)} points; 68, 98 or 106 are known", path=shown_path(path))
    return _numbers(rows, 2, path, start + 1), scheme


def write_pts(points: Points) -> str:
    """Format points `(n, 2)` as an iBUG `.pts` file."""
    rows = "\n".join(f"{x:.3f} {y:.3f}" for x, y in points.tolist())
    return f"version: 1\nn_points: {len(points)}\n{{\n{rows}\n}}\n"


def scheme_of(count: int) -> str:
    """Return the first scheme with this number of points, or an empty string."""
    return next((name for name, number in SCHEMES.items() if number == count), "")


def to_floats(values: object) -> Points:
    """Turn numbers or texts into float32, too large ones into inf; empty if one is no number."""
    with np.errstate(over="ignore"):
        try:
            return np.array(values, np.float64).astype(np.float32)
        except (ValueError, TypeError, OverflowError):
            return np.empty(0, np.float32)


def _numbers(lines: list[str], width: int, path: AnyPath, first_line: int) -> Points:
    found = np.empty((len(lines), width), np.float32)
    for row, line in enumerate(lines):
        values = to_floats(line.split())
        if values.shape != (width,) or not np.isfinite(values).all():
            wanted = "a number" if width == 1 else f"{width} finite numbers"
            raise DataError(f"'{line}' is not {wanted}", path=shown_path(path), line=first_line + row)
        found[row] = values
    return found
