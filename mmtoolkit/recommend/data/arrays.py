"""Read the arrays of a data set folder: features, neighbour lists and groups of the items."""

import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mmtoolkit.core.errors import DataError
from mmtoolkit.recommend.data.dataset import FloatArray, IntArray


def read_array(path: Path) -> NDArray[np.generic]:
    """Read one array without objects from an `.npy` file.

    Raises:
        DataError: if the file is something else.
    """
    try:
        with path.open("rb") as stream:
            array = np.load(stream, allow_pickle=False)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        raise DataError("not a readable .npy file; save it with numpy.save", path=path) from None
    if not isinstance(array, np.ndarray):
        raise DataError("several arrays in one file; save one with numpy.save", path=path)
    return array


def read_features(path: Path) -> FloatArray:
    """Read the features of the items, `(items, width)`.

    Raises:
        DataError: if they are no finite numbers of that shape.
    """
    array = read_array(path)
    if array.ndim != 2 or array.dtype.kind not in "fiu" or not array.shape[1]:
        raise DataError(
            f"expected numbers of shape (items, width), found {array.dtype} {array.shape}",
            path=path,
        )
    features = array.astype(np.float32)
    bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if len(bad):
        raise DataError(
            f"row {bad[0]} (and {len(bad) - 1} more) has NaN or infinite values; "
            "encode those items again, or set their rows to 0",
            path=path,
        )
    return features


def read_neighbours(path: Path, items: int, k: int) -> IntArray:
    """Read lists of nearest items, `(items, k)`.

    Raises:
        DataError: if they are no item numbers of that shape.
    """
    array = read_array(path)
    if array.ndim != 2 or array.dtype.kind not in "iu" or array.shape[1] != k:
        raise DataError(
            f"expected whole numbers of shape ({items}, {k}), found {array.dtype} {array.shape}",
            path=path,
        )
    check_rows(path, len(array), items)
    lists = array.astype(np.int64)
    bad = np.argwhere((lists < 0) | (lists >= items))
    if len(bad):
        row, column = bad[0]
        raise DataError(f"row {row}: item {lists[row, column]} is out of range 0 to {items - 1}", path=path)
    return lists


def check_rows(path: Path, rows: int, items: int) -> None:
    """Refuse an array that does not have one row for each item.

    Raises:
        DataError: naming both numbers.
    """
    if rows != items:
        raise DataError(
            f"{rows} rows for {items} items; give one row for each item, in the order of their ids "
            "(list items without interactions in i_id_mapping.csv)",
            path=path,
        )


def read_groups(path: Path, items: int) -> IntArray | None:
    """Read the known group of each item, `(items,)`; None if the file does not exist.

    Raises:
        DataError: if the array has another shape or type.
    """
    if not path.is_file():
        return None
    array = read_array(path)
    if array.shape != (items,) or array.dtype.kind not in "iu":
        raise DataError(f"expected whole numbers of shape ({items},), found {array.shape}", path=path)
    return array.astype(np.int64)
