"""Read a data set folder: one `.inter` file and, for each modality, features or k-NN lists.

The `.inter` file is tab separated with a header: `userID`, `itemID` and `x_label` (0 train, 1 validation,
2 test), in any order. RecBole's typed headers (`user_id:token`) work too; other columns are ignored. Ids
run from 0. `i_id_mapping.csv` (MMRec's) may list items without interactions. `item_groups.npy` holds known
groups of items; the share of edges within a group measures the quality of the item graphs.
"""

import re
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import NoReturn

import numpy as np
import scipy.sparse as sp

from mmtoolkit.core.errors import DataError
from mmtoolkit.core.logging import logger
from mmtoolkit.recommend.data.arrays import check_rows, read_features, read_groups, read_neighbours
from mmtoolkit.recommend.data.dataset import (
    SPLITS,
    FloatArray,
    IntArray,
    Modality,
    RecommendData,
    interaction_matrix,
)
from mmtoolkit.recommend.data.synthetic import make_demo

LARGEST_ID = 10**8
"""Ids from here on cannot be consecutive numbers from 0; their matrices would not fit into memory."""

COLUMNS = {
    "userID": ("userID", "user_id"),
    "itemID": ("itemID", "item_id"),
    "x_label": ("x_label",),
}

USUAL = ("rating", "timestamp")
"""Columns of the format that are ignored without a note."""


def load_data(path: Path | None) -> RecommendData:
    """Read the data set at `path`, or make the embedded one if it is `demo`.

    Raises:
        DataError: naming the file and line that cannot be used, and the remedy.
    """
    if path is None:
        raise DataError("no data set given; name a folder with `data` FOLDER, or try `data` demo")
    if str(path) == "demo":
        return make_demo()
    return read_folder(path)


def read_folder(folder: Path) -> RecommendData:
    """Read a data set folder and check everything in it.

    Raises:
        DataError: naming the file and line that cannot be used, and the remedy.
    """
    if not folder.is_dir():
        raise DataError("no such folder; name the folder that holds the .inter file", path=folder)
    found = sorted(folder.glob("*.inter"))
    if len(found) != 1:
        raise DataError(f"expected exactly one .inter file, found {len(found)}", path=folder)
    inter = found[0]
    table = _read_interactions(inter)
    items = _item_count(folder, table[:, 1])
    modalities = _read_modalities(folder, inter, table, items)
    _check_ids(inter, table[:, 1], items, "the items of i_id_mapping.csv")
    splits = _split(inter, table, items)
    groups = read_groups(folder / "item_groups.npy", items)
    return RecommendData(inter.stem, splits[0], splits[1], splits[2], modalities, groups)


def read_lines(path: Path) -> list[str]:
    """Return the lines of a table of text.

    Raises:
        DataError: if it cannot be read or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise DataError("not UTF-8 text; save it as tab-separated UTF-8", path=path) from None
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", path=path) from None


def _read_interactions(path: Path) -> IntArray:
    """Return `(interactions, 3)` of user, item, split in the order of the file."""
    lines = read_lines(path)
    while lines and not lines[-1].strip():
        lines.pop()
    if len(lines) < 2:
        raise DataError("no interactions; expected a header and one line per interaction", path=path)
    header = [name.partition(":")[0].strip() for name in lines[0].split("\t")]
    positions = _column_positions(path, header)
    tabs = len(header) - 1
    for number, line in enumerate(lines[1:], start=2):
        if line.count("\t") != tabs:
            raise DataError(
                f"{line.count(chr(9)) + 1} columns where the header has {tabs + 1}; mend or delete this line",
                path=path,
                line=number,
            )
    cells = [line.split("\t") for line in lines[1:]]
    columns = [_integers(path, name, [row[index] for row in cells]) for name, index in positions.items()]
    table = np.stack(columns, axis=1)
    bad = np.flatnonzero((table[:, 2] < 0) | (table[:, 2] > 2))
    if len(bad):
        value = table[bad[0], 2]
        raise DataError(
            f"x_label {value} is none of 0 (train), 1 (validation), 2 (test)",
            path=path,
            line=int(bad[0]) + 2,
        )
    for column, name in enumerate(("userID", "itemID")):
        large = np.flatnonzero(table[:, column] >= LARGEST_ID)
        if len(large):
            raise DataError(
                f"{name} {table[large[0], column]} is too large; number them from 0 "
                "(`mmtk recommend prepare` does)",
                path=path,
                line=int(large[0]) + 2,
            )
    return table


def _column_positions(path: Path, header: list[str]) -> dict[str, int]:
    positions = {}
    for name, spellings in COLUMNS.items():
        found = [header.index(spelling) for spelling in spellings if spelling in header]
        if not found:
            remedy = {"x_label": " (0 train, 1 validation, 2 test)"}.get(name, "")
            raise DataError(
                f"no column '{name}'{remedy}; the header has: {', '.join(header)}",
                path=path,
                line=1,
            )
        positions[name] = found[0]
    extra = [name for i, name in enumerate(header) if i not in positions.values() and name not in USUAL]
    if extra:
        logger.info("%s: columns not used: %s", path.name, ", ".join(extra))
    return positions


def _integers(path: Path, column: str, cells: list[str]) -> IntArray:
    try:
        values = np.array(cells, dtype=np.int64)
    except (ValueError, OverflowError):
        values = np.array([int(c) if _is_integer(c) else -1 for c in cells], dtype=np.int64)
    bad = np.flatnonzero(values < 0)
    if len(bad):
        raise DataError(
            f"{column} '{cells[bad[0]]}' is not a whole number from 0; number the ids from 0",
            path=path,
            line=int(bad[0]) + 2,
        )
    return values


def _is_integer(text: str) -> bool:
    return re.fullmatch(r"\s*\d{1,18}\s*", text) is not None


def _item_count(folder: Path, items: IntArray) -> int:
    """Count the items: the lines of i_id_mapping.csv if it exists, else the largest id + 1."""
    mapping = folder / "i_id_mapping.csv"
    if not mapping.is_file():
        return int(items.max()) + 1
    return sum(1 for line in read_lines(mapping)[1:] if line.strip())


def _check_ids(path: Path, ids: IntArray, items: int, limit: str) -> None:
    bad = np.flatnonzero(ids >= items)
    if len(bad):
        raise DataError(
            f"itemID {ids[bad[0]]} is out of range: {limit} run from 0 to {items - 1}",
            path=path,
            line=int(bad[0]) + 2,
        )


def _read_modalities(folder: Path, inter: Path, table: IntArray, items: int) -> dict[str, Modality]:
    """Read every `<name>_feat.npy` and `<name>_knn<k>.npy` below `folder`."""
    features: dict[str, FloatArray] = {}
    neighbours: dict[str, dict[int, IntArray]] = {}
    for path in sorted(folder.glob("*.npy")):
        if match := re.fullmatch(r"(.+)_feat", path.stem):
            features[match[1]] = rows = read_features(path)
            if len(rows) < items:  # name the line of an item without features
                _check_ids(inter, table[:, 1], len(rows), f"the rows of {path.name}")
            check_rows(path, len(rows), items)
        elif match := re.fullmatch(r"(.+)_knn(\d+)", path.stem):
            lists = read_neighbours(path, items, int(match[2]))
            neighbours.setdefault(match[1], {})[int(match[2])] = lists
    names = sorted(features.keys() | neighbours.keys())
    if not names:
        raise DataError("no modality: expected files such as text_feat.npy or image_knn10.npy", path=folder)
    return {name: Modality(features.get(name), neighbours.get(name, {})) for name in names}


def _split(path: Path, table: IntArray, items: int) -> list[sp.csr_array]:
    """Build the three matrices, and check that every user has training items and lacks at least one item."""
    users = int(table[:, 0].max()) + 1
    for label, name in enumerate(SPLITS):
        if not (table[:, 2] == label).any():
            raise DataError(
                f"the {name} split is empty: no line has x_label {label}; give every split some interactions",
                path=path,
            )
    matrices = [interaction_matrix(table[table[:, 2] == label], users, items) for label in range(3)]
    twice = len(table) - sum(matrix.nnz for matrix in matrices)
    if twice:
        logger.info("%s: %d repeated interactions count once", path.name, twice)
    idle = np.flatnonzero(np.diff(matrices[0].indptr) == 0)
    if len(idle):
        _complain_idle(path, table, int(idle[0]), len(idle) - 1)
    full = np.flatnonzero(np.diff(matrices[0].indptr) == items)
    if len(full):
        raise DataError(
            f"user {full[0]} has every item in training, so no negative item can be drawn; remove that user",
            path=path,
        )
    _check_disjoint(path, table, matrices)
    return matrices


def _check_disjoint(path: Path, table: IntArray, matrices: Sequence[sp.csr_array]) -> None:
    """Refuse pairs of user and item in two splits: training items are never ranked, so never found."""
    for first, second in combinations(range(len(SPLITS)), 2):
        shared = matrices[first].multiply(matrices[second]).tocoo()
        if not shared.nnz:
            continue
        user, item = int(shared.row[0]), int(shared.col[0])
        others = f" (and {shared.nnz - 1} more pairs)" if shared.nnz > 1 else ""
        lines = np.flatnonzero((table == (user, item, second)).all(axis=1))
        raise DataError(
            f"user {user} with item {item}{others} is in {SPLITS[first]} and in {SPLITS[second]}; "
            "keep every pair in one split only",
            path=path,
            line=int(lines[0]) + 2,
        )


def _complain_idle(path: Path, table: IntArray, user: int, more: int) -> NoReturn:
    lines = np.flatnonzero(table[:, 0] == user)
    others = f" (and {more} more)" if more else ""
    raise DataError(
        f"user {user}{others} has no training interaction; move one to x_label 0, "
        "or remove the user and number the users from 0 again",
        path=path,
        line=int(lines[0]) + 2 if len(lines) else None,
    )
