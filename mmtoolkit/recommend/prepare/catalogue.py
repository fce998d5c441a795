"""What is known of the items: their texts and their pictures."""

import html
import re
from collections.abc import Sequence
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
SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Catalogue:
    """Texts and picture files of the items, in their order.

    Attributes:
        texts: empty where nothing is known.
        titles: the first text column alone, for people.
        pictures: named files below the image folder; empty where none is named.
        columns: what was read from which column.
        unknown: rows of items without interactions.
    """

    texts: list[str]
    titles: list[str]
    pictures: list[str]
    columns: dict[str, str]
    unknown: int = 0


def read_catalogue(path: Path | None, names: Sequence[str], chosen: ColumnSettings) -> Catalogue:
    """Read the texts of some items; of several rows of an item the first with a text counts.

    Args:
        path: a catalogue in any of the formats; None: no texts.
        names: ids of the items, in their order.
        chosen: columns that the user named.

    Raises:
        DataError: naming the line or the column that cannot be used, or if no item is found.
    """
    texts, titles, pictures = ([""] * len(names) for _ in range(3))
    if path is None:
        return Catalogue(texts, titles, pictures, {})
    header, rows = read_table(path)
    item, text, image = _choose_columns(path, header, chosen)
    places = {name: place for place, name in enumerate(names)}
    unknown, known = 0, set()
    for line, row in rows:
        name = identifier(row.get(item))
        if not name:
            raise DataError(f"no item in column '{item}'; mend or delete this line", path=path, line=line)
        place = places.get(name)
        if place is None:
            unknown += 1
            continue
        known.add(place)
        if not texts[place]:
            parts = [clean_text(row.get(column)) for column in text]
            texts[place] = ". ".join(part for part in parts if part)
            titles[place] = parts[0] if parts else ""
        pictures[place] = pictures[place] or identifier(row.get(image) if image else None)
    if not known:
        raise DataError(f"column '{item}' has none of the items of the interactions", path=path)
    columns = {"item": item, "text": ", ".join(text)} | ({"image": image} if image else {})
    return Catalogue(texts, titles, pictures, columns, unknown)


def read_item_names(path: Path, chosen: ColumnSettings) -> list[str]:
    """List the items of a catalogue, each once, in its order.

    Raises:
        DataError: if it cannot be read.
    """
    header, rows = read_table(path)
    item = _choose_columns(path, header, chosen)[0]
    return list(dict.fromkeys(name for _, row in rows if (name := identifier(row.get(item)))))


def _choose_columns(
    path: Path, names: list[str], chosen: ColumnSettings
) -> tuple[str, tuple[str, ...], str | None]:
    item = need_column(path, names, "item", chosen.catalogue_item, "--set columns.catalogue_item")
    text = chosen.text or tuple(name for name in guess_text_columns(names) if name != item)
    if not text:
        raise DataError(
            f"no column looks like a text; name some with --text-column; there are: {', '.join(names)}",
            path=path,
            line=1,
        )
    for column in chosen.text:
        choose_column(path, names, "text", column, "--text-column")
    if chosen.image:
        choose_column(path, names, "text", chosen.image, "--image-column")
    return item, text, chosen.image


def clean_text(value: Any) -> str:
    """Flatten lists and mappings, drop markup and halves of letters, join white space."""
    if value is None:
        return ""
    if isinstance(value, dict):
        value = [f"{key}: {clean_text(inner)}" for key, inner in value.items()]
    if isinstance(value, list | tuple):
        return ", ".join(part for part in map(clean_text, value) if part)
    whole = SURROGATE.sub("\ufffd", str(value))
    return SPACE.sub(" ", html.unescape(TAG.sub(" ", whole))).strip()


def find_pictures(folder: Path | None, names: Sequence[str], named: Sequence[str]) -> list[Path | None]:
    """Find the picture of each item: the named file, else one that is named as the item.

    Raises:
        DataError: if there is no such folder, or no picture for any item.
    """
    if folder is None:
        return [None] * len(names)
    if not folder.is_dir():
        raise DataError("no such folder; name the folder of the pictures with --images", path=folder)
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
            f"none of its {len(files) // 2} pictures belongs to an item; name the files as the items "
            f"('{names[0]}.jpg'), or name their column with --image-column",
            path=folder,
        )
    return found
