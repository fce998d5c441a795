"""The shop's ids of users and items, and titles for people; the engine itself counts with numbers."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from mmtoolkit.core.errors import DataError, UsageError
from mmtoolkit.recommend.data.dataset import IntArray
from mmtoolkit.recommend.data.read import read_lines
from mmtoolkit.recommend.load import Model

Id = int | str


@dataclass(frozen=True)
class Names:
    """Ids of users and items as their data set folder gives them.

    Attributes:
        kind: `user` or `item`, for messages.
        count: number of users or items.
        ids: id of each number, or None where the folder has no `?_id_mapping.csv`.
        titles: title of each number, or None.
    """

    kind: str
    count: int
    ids: Sequence[str] | None = None
    titles: Sequence[str] | None = None

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.ids or ())}

    def id(self, number: int) -> Id:
        """Return the shop's id of a number, or the number itself."""
        return number if self.ids is None else self.ids[number]

    def find(self, text: str) -> int | None:
        """Return the number of an id, or None if it is unknown."""
        if self.ids is not None:
            return self._numbers.get(text)
        return int(text) if text.isdecimal() and int(text) < self.count else None

    def title(self, number: int) -> str:
        """Return `id (title)`, or the id alone."""
        title = self.titles[number] if self.titles else ""
        return f"{self.id(number)} ({title})" if title else str(self.id(number))

    def which(self) -> str:
        """Describe the valid ids, for messages."""
        if self.ids is None:
            return f"ids run from 0 to {self.count - 1}"
        return f"ids are those of the shop, as '{self.ids[0]}'"


def read_names(model: Model, *, numbers: bool = False) -> tuple[Names, Names]:
    """Read the ids of users and items from the model's data set folder.

    Args:
        model: a loaded model.
        numbers: use the numbers even if the folder has ids.

    Raises:
        DataError: if a mapping does not fit the data set.
    """
    folder = model.settings.data.path
    users, items = model.data.users, model.data.items
    if numbers or folder is None or not folder.is_dir():
        return Names("user", users), Names("item", items)
    user_ids = _read_mapping(folder / "u_id_mapping.csv", users)
    item_ids = _read_mapping(folder / "i_id_mapping.csv", items)
    titles = _read_titles(folder / "items.jsonl", items)
    return Names("user", users, user_ids), Names("item", items, item_ids, titles)


def _read_mapping(path: Path, count: int) -> list[str] | None:
    """Read lines of id, tab, number below a header."""
    if not path.is_file():
        return None
    ids: list[str] = [""] * count
    for line, text in enumerate(read_lines(path)[1:], start=2):
        name, _, number = text.rpartition("\t")
        if not name or not number.isdecimal() or int(number) >= count:
            raise DataError(
                f"expected an id, a tab and a number below {count}; mend or delete the file",
                path=path,
                line=line,
            )
        ids[int(number)] = name
    if "" in ids:
        raise DataError(f"has no id for number {ids.index('')}; mend or delete the file", path=path)
    return ids


def _read_titles(path: Path, count: int) -> list[str] | None:
    """Read the titles that `prepare` wrote; None if the file is missing or damaged."""
    if not path.is_file():
        return None
    try:
        titles = [str(json.loads(line)["title"]) for line in path.read_text(encoding="utf-8").splitlines()]
    except (ValueError, KeyError, TypeError):
        return None
    return titles if len(titles) == count else None


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except OSError:  # a long list of ids is no file name
        return False


def chosen_numbers(given: Sequence[str], names: Names) -> IntArray:
    """Turn ids, or files of ids, into numbers; an empty sequence means all.

    Raises:
        UsageError: if an id is unknown.
        DataError: if a file cannot be read, naming the line of a bad id.
    """
    return np.array(parse_ids(given, names), np.int64) if given else np.arange(names.count)


def parse_ids(given: Sequence[str], names: Names) -> list[int]:
    """Read ids from files (one per line) or from the command line (`5`, `5,7`).

    Raises:
        UsageError: if an id is unknown.
        DataError: if a file cannot be read, naming the line of a bad id.
    """
    option = f"`{names.kind}s`"
    found: list[int] = []
    for text in given:
        if names.find(text) is None and _is_file(text):
            found += _ids_in_file(Path(text), names)
            continue
        for part in [text] if names.find(text) is not None else text.split(","):
            number = names.find(part.strip())
            if number is None and names.ids is None and not part.strip().isdecimal():
                raise UsageError(f"{option} {part}: neither a file nor a {names.kind} id")
            if number is None:
                raise UsageError(f"{option} {part}: no such {names.kind}; {names.which()}")
            found.append(number)
    return found


def _ids_in_file(path: Path, names: Names) -> list[int]:
    found = []
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError):
        raise DataError(f"cannot be read as text; give one {names.kind} id per line", path=path) from None
    for line, text in enumerate(lines, start=1):
        if not text.strip():
            continue
        number = names.find(text.strip())
        if number is None:
            raise DataError(
                f"'{text.strip()}' is no {names.kind} id; {names.which()}, one per line", path=path, line=line
            )
        found.append(number)
    if not found:
        raise DataError(f"holds no {names.kind} id; give one per line", path=path)
    return found
