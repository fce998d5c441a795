"""The catalogue: texts and pictures of the items."""

import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmtoolkit.core.errors import DataError
from mmtoolkit.recommend.prepare.config import ColumnSettings
from mmtoolkit.recommend.prepare.readers import (
    choose_column,
    guess_text_columns,
    identifier,
    need_column,
    read_table,
)

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp"}
TAG = re.compile(r"<[a-zA-Z/][^<>]*>")
SPACE = re.compile(r"\s+")
OPTIONS = {"item": "--set columns.catalogue_item", "text": "`text_column`", "image": "`image_column`"}
"""How a user names the column of each role, for messages."""
SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Catalogue:
    """Texts and picture files of the items, in their order.

    Attributes:
        texts: empty for items without a text.
        titles: the first text column, for people.
        pictures: file names below the image folder; empty if the catalogue names none.
        columns: column of each role.
        unknown: number of rows of items without interactions.
    """

    texts: list[str]
    titles: list[str]
    pictures: list[str]
    columns: dict[str, str]
    unknown: int = 0


def read_catalogue(
    path: Path | None,
    names: Sequence[str],
    chosen: ColumnSettings,
    *,
    texts_needed: bool = True,
    options: Mapping[str, str] = OPTIONS,
) -> Catalogue:
    """Read the texts of some items; if an item has several rows, its first text is used.

    Args:
        path: a catalogue in any format; None: no texts.
        names: ids of the items, in their order.
        chosen: columns that the user named.
        texts_needed: refuse a catalogue without a column of texts.
        options: how the user names the column of each role, for messages.

    Raises:
        DataError: naming the line or the column that cannot be used, or if no item is found.
    """
    texts, titles, pictures = ([""] * len(names) for _ in range(3))
    if path is None:
        return Catalogue(texts, titles, pictures, {})
    header, rows = read_table(path)
    item = need_column(path, header, "item", chosen.catalogue_item, options["item"])
    text = _text_columns(path, header, item, chosen.text, options["text"])
    if texts_needed and not text:
        raise DataError(
            f"no column looks like a text; name some with {options['text']}; "
            f"the columns are: {', '.join(header)}",
            path=path,
            line=1,
        )
    image = chosen.image and choose_column(path, header, "text", chosen.image, options["image"])
    numbers = {name: number for number, name in enumerate(names)}
    unknown, known = 0, set()
    for line, row in rows:
        name = identifier(row.get(item))
        if not name:
            raise DataError(f"no item in column '{item}'; correct or delete this line", path=path, line=line)
        number = numbers.get(name)
        if number is None:
            unknown += 1
            continue
        known.add(number)
        if not texts[number]:
            parts = [clean_text(row.get(column)) for column in text]
            texts[number] = ". ".join(part for part in parts if part)
            titles[number] = parts[0] if parts else ""
        pictures[number] = pictures[number] or identifier(row.get(image) if image else None)
    if not known:
        raise DataError(f"column '{item}' has none of the items of the interactions", path=path)
    read = {"item": item, "text": ", ".join(text), "image": image}
    columns = {role: column for role, column in read.items() if column}
    return Catalogue(texts, titles, pictures, columns, unknown)


def read_item_names(path: Path, chosen: ColumnSettings, options: Mapping[str, str] = OPTIONS) -> list[str]:
    """List the distinct items of a catalogue, in its order.

    Raises:
        DataError: if it cannot be read.
    """
    header, rows = read_table(path)
    item = need_column(path, header, "item", chosen.catalogue_item, options["item"])
    return list(dict.fromkeys(name for _, row in rows if (name := identifier(row.get(item)))))


def _text_columns(
    path: Path, names: list[str], item: str, wanted: tuple[str, ...], option: str
) -> tuple[str, ...]:
    for column in wanted:
        choose_column(path, names, "text", column, option)
    return wanted or tuple(name for name in guess_text_columns(names) if name != item)


def clean_text(value: Any) -> str:
    """Flatten lists and mappings, remove markup and unpaired surrogates, and join white space."""
    if value is None:
        return ""
    if isinstance(value, dict):
        value = [f"{key}: {clean_text(inner)}" for key, inner in value.items()]
    if isinstance(value, list | tuple):
        return ", ".join(part for part in map(clean_text, value) if part)
    whole = SURROGATE.sub("\ufffd", str(value))
    return SPACE.sub(" ", html.unescape(TAG.sub(" ", whole))).strip()


def find_pictures(folder: Path | None, names: Sequence[str], named: Sequence[str]) -> list[Path | None]:
    """Find the picture of each item: the file that the catalogue names, else the file with the item's name.

    Raises:
        DataError: if the folder does not exist, or has no picture of any item.
    """
    if folder is None:
        return [None] * len(names)
    if not folder.is_dir():
        raise DataError("no such folder; name the folder of the pictures with `images`", path=folder)
    files: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in IMAGE_SUFFIXES:
            files.setdefault(path.stem, path)
            files.setdefault(path.relative_to(folder).as_posix(), path)
    found = [
        files.get(file.removeprefix("./")) if file else files.get(name)
        for name, file in zip(names, named, strict=True)
    ]
    if not any(found):
        raise DataError(
            f"none of its {len(files) // 2} pictures belongs to an item; name the files like the items "
            f"('{names[0]}.jpg'), or name their column with `image_column`",
            path=folder,
        )
    return found
