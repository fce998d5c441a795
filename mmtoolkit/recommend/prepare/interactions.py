"""Read interactions from a raw file into arrays, with the ids of users and items."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmtoolkit.core.errors import DataError
from mmtoolkit.core.logging import logger
from mmtoolkit.recommend.data.dataset import IntArray
from mmtoolkit.recommend.prepare.config import ColumnSettings
from mmtoolkit.recommend.prepare.readers import (
    choose_column,
    identifier,
    need_column,
    read_table,
)

DoubleArray = NDArray[np.float64]

OPTIONAL = ("rating", "time", "label")
"""Parts of an interaction in addition to user and item."""

OPTIONS = {role: f"`{role}_column`" for role in ("user", "item", "rating", "time")} | {
    "label": "--set columns.label"
}
"""How a user names the column of each role, for messages."""


@dataclass(frozen=True)
class Interactions:
    """`n` interactions of users with items, in the order of the file.

    Attributes:
        user_names: ids of the users.
        item_names: ids of the items.
        users: user of each interaction, an index of `user_names`, `(n,)`.
        items: item of each interaction, an index of `item_names`, `(n,)`.
        rating: `(n,)`, or None.
        time: `(n,)`, or None.
        label: split, 0 train, 1 validation, 2 test, `(n,)`, or None.
        columns: the column that each part was read from.
    """

    user_names: list[str]
    item_names: list[str]
    users: IntArray
    items: IntArray
    rating: DoubleArray | None = None
    time: DoubleArray | None = None
    label: IntArray | None = None
    columns: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        """Count the interactions."""
        return len(self.users)

    def pick(self, chosen: NDArray[Any]) -> "Interactions":
        """Keep some interactions (a mask or indices); number users and items by first appearance."""
        users, user_names = _renumber(self.users[chosen], self.user_names)
        items, item_names = _renumber(self.items[chosen], self.item_names)
        rating, time, label = (
            None if part is None else part[chosen] for part in (self.rating, self.time, self.label)
        )
        return Interactions(user_names, item_names, users, items, rating, time, label, self.columns)


def _renumber(ids: IntArray, names: list[str]) -> tuple[IntArray, list[str]]:
    kept, first, inverse = np.unique(ids, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return rank[inverse], [names[number] for number in kept[order]]


def read_interactions(
    path: Path,
    chosen: ColumnSettings,
    parts: Sequence[str] = OPTIONAL,
    needed: Collection[str] = (),
    options: Mapping[str, str] = OPTIONS,
) -> Interactions:
    """Read a raw file of interactions.

    Args:
        path: the file.
        chosen: columns that the user named.
        parts: what to read in addition to user and item, some of :data:`OPTIONAL`.
        needed: parts that must not be ignored even if their column was only guessed.
        options: how the user names the column of each role, for messages.

    Raises:
        DataError: naming the line, the column and what to change.
    """
    names, rows = read_table(path, chosen.header)
    columns = {
        "user": need_column(path, names, "user", chosen.user, options["user"]),
        "item": need_column(path, names, "item", chosen.item, options["item"]),
    }
    guesses = {
        role: _possible_columns(path, names, role, getattr(chosen, role), options[role]) for role in parts
    }
    lines: list[int] = []
    cells: dict[str, list[Any]] = {column: [] for column in chain(columns.values(), *guesses.values())}
    for line, row in rows:
        lines.append(line)
        for column, found in cells.items():
            found.append(row.get(column))
    users, user_names = _number(path, lines, "user", columns["user"], cells[columns["user"]])
    items, item_names = _number(path, lines, "item", columns["item"], cells[columns["item"]])
    numbers: dict[str, DoubleArray] = {}
    for role, possible in guesses.items():
        named = getattr(chosen, role) is not None
        option = "" if named else options[role]
        for column in possible:
            strict, last = named or role in needed, column == possible[-1]
            values = _convert(path, lines, role, column, cells[column], option, strict=strict, last=last)
            if values is not None:
                numbers[role], columns[role] = values, column
                break
    label = numbers["label"].astype(np.int64) if "label" in numbers else None
    return Interactions(
        user_names, item_names, users, items, numbers.get("rating"), numbers.get("time"), label, columns
    )


def _possible_columns(
    path: Path, names: Sequence[str], role: str, wanted: str | None, option: str
) -> list[str]:
    """List the possible columns of a part: the named one, else all with a usual name."""
    found: list[str] = []
    while column := choose_column(path, [n for n in names if n not in found], role, wanted, option):
        found.append(column)
        if wanted:
            break
    return found


def _number(
    path: Path, lines: list[int], role: str, column: str, cells: list[Any]
) -> tuple[IntArray, list[str]]:
    """Number ids in order of appearance."""
    names = [identifier(cell) for cell in cells]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    if "" in numbers:
        line = lines[names.index("")]
        raise DataError(
            f"no {role} in column '{column}' (empty, or with a control character); "
            "correct or delete this line",
            path=path,
            line=line,
        )
    return np.fromiter(map(numbers.__getitem__, names), np.int64, len(names)), list(numbers)


def _convert(
    path: Path,
    lines: list[int],
    role: str,
    column: str,
    cells: list[Any],
    option: str,
    *,
    strict: bool,
    last: bool,
) -> DoubleArray | None:
    """Convert cells to numbers; None if a cell is no number and the column may be ignored.

    Args:
        path: of the file, for messages.
        lines: line of each cell, for messages.
        role: key of :data:`PARSERS`.
        column: its name.
        cells: its content.
        option: how the user names another column; empty if the user named this one.
        strict: whether a column with some valid cells must not be ignored.
        last: whether this is the last possible column, which, if strict, must not be ignored either.
    """
    values = [PARSERS[role](cell) for cell in cells]
    if None not in values:
        return np.array(values, np.float64)
    bad = values.index(None)
    problem = f"{column} {cells[bad]!r} is no {role} ({EXPECTED[role]})"
    some = any(value is not None for value in values)
    if strict and (last or some):
        remedy = "correct or delete this line" if some else "convert the whole column"
        other = f", or name another one with {option}" if option and not some else ""
        raise DataError(f"{problem}; {remedy}{other}", path=path, line=lines[bad])
    logger.warning("%s:%d: %s; column '%s' is ignored", path, lines[bad], problem, column)
    return None


def parse_number(cell: Any) -> float | None:
    """Read a finite number."""
    try:
        value = float(cell)
    except (TypeError, ValueError, OverflowError):
        return None
    return value if math.isfinite(value) else None


def parse_time(cell: Any) -> float | None:
    """Read a number, or an ISO date as seconds since 1970 (UTC if it has no time zone)."""
    number = parse_number(cell)
    if number is not None or not isinstance(cell, str):
        return number
    try:
        moment = datetime.fromisoformat(cell.strip())
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def parse_label(cell: Any) -> int | None:
    """Read 0, 1, 2 or the name of a split."""
    names = {"0": 0, "train": 0, "1": 1, "validation": 1, "valid": 1, "2": 2, "test": 2}
    return names.get(str(cell).strip().lower().removesuffix(".0"))


PARSERS: dict[str, Callable[[Any], float | int | None]] = {
    "rating": parse_number,
    "time": parse_time,
    "label": parse_label,
}
EXPECTED = {
    "rating": "a number",
    "time": "a number, or a date as 2024-05-31 or 2024-05-31T18:30:00",
    "label": "0 train, 1 validation, 2 test",
}
