"""Ranked lists as files: CSV, JSON lines and parquet, written block by block."""

import csv
import io
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from mmtoolkit.core.errors import UsageError
from mmtoolkit.core.extras import need
from mmtoolkit.recommend.data.dataset import IntArray
from mmtoolkit.recommend.serving.names import Id, Names

SUFFIXES = {".csv": "csv", ".jsonl": "jsonl", ".parquet": "parquet"}
ROW_GROUP = 4096
"""Lists in a row group of a parquet file."""


@dataclass(frozen=True)
class Ranked:
    """The best items of one user, or the nearest items of one item: numbers and scores, best first."""

    key: int
    items: list[int]
    scores: list[float]


def ranked(keys: IntArray, items: Tensor, scores: Tensor) -> Iterator[Ranked]:
    """Turn a block of rankings into lists, without entries that score minus infinity.

    Args:
        keys: the user or item of each list, `(block,)`.
        items: `(block, k)`, best first.
        scores: `(block, k)`.
    """
    for key, row, values in zip(keys.tolist(), items.tolist(), scores.tolist(), strict=True):
        length = int(np.isfinite(values).sum())
        yield Ranked(key, row[:length], values[:length])


@dataclass(frozen=True)
class Heads:
    """Names of the two id columns, and the ids in them.

    Attributes:
        key: column of whose list it is, as `user`.
        value: column of what is in the list, as `item`.
        keys: ids of the former.
        values: ids of the latter.
    """

    key: str
    value: str
    keys: Names
    values: Names


def list_format(path: Path | None, wanted: str | None) -> str:
    """Choose `csv`, `jsonl` or `parquet` from the wanted format or the file's name.

    Raises:
        UsageError: if the name has no known suffix, the file's folder is missing, or parquet has no file.
    """
    if path is not None and not path.parent.is_dir():
        raise UsageError(f"`output` {path}: no folder {path.parent}; make it first")
    if path is None and wanted == "parquet":
        raise UsageError("`format` parquet needs `output` FILE")
    if path is not None and wanted is None and path.suffix not in SUFFIXES:
        raise UsageError(f"`output` {path}: name it .csv, .jsonl or .parquet, or give `format`")
    kind = wanted or (SUFFIXES[path.suffix] if path else "csv")
    if kind == "parquet":
        need("pyarrow", "parquet", "writing parquet")
    return kind


def write_lists(lists: Iterable[Ranked], heads: Heads, path: Path | None, kind: str) -> None:
    """Write lists, block by block, to a file (complete or not at all) or to stdout.

    CSV and parquet have a row `user, rank, item, score` for each item, JSON lines an object for each user.
    """
    if kind == "parquet":
        assert path is not None
        with _replacing(path) as temporary:
            _write_parquet(lists, heads, temporary)
        return
    write_lines(TEXTS[kind](lists, heads), path)


def write_lines(lines: Iterable[str], path: Path | None) -> None:
    """Write lines to a file (complete or not at all) or to stdout.

    Raises:
        UsageError: if the file cannot be written.
    """
    if path is None:
        sys.stdout.writelines(lines)
        return
    with _replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        stream.writelines(lines)


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary file that replaces `path` if nothing fails."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise UsageError(f"`output` {path}: cannot be written: {error.strerror}") from None
    finally:
        temporary.unlink(missing_ok=True)


def _json_lines(lists: Iterable[Ranked], heads: Heads) -> Iterator[str]:
    for one in lists:
        key, values = _named(one, heads)
        record = {heads.key: key, f"{heads.value}s": values, "scores": one.scores}
        yield json.dumps(record, ensure_ascii=False) + "\n"


def _csv_lines(lists: Iterable[Ranked], heads: Heads) -> Iterator[str]:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([heads.key, "rank", heads.value, "score"])
    for one in lists:
        key, values = _named(one, heads)
        rows = enumerate(zip(values, one.scores, strict=True), start=1)
        writer.writerows((key, rank, value, f"{score:.6g}") for rank, (value, score) in rows)
        yield buffer.getvalue()
        buffer.seek(0)
        buffer.truncate()


TEXTS: dict[str, Callable[[Iterable[Ranked], Heads], Iterator[str]]] = {
    "csv": _csv_lines,
    "jsonl": _json_lines,
}


def _named(one: Ranked, heads: Heads) -> tuple[Id, list[Id]]:
    return heads.keys.id(one.key), [heads.values.id(item) for item in one.items]


def _write_parquet(lists: Iterable[Ranked], heads: Heads, path: Path) -> None:
    arrow, parquet = (
        need("pyarrow", "parquet", "writing parquet"),
        need("pyarrow.parquet", "parquet", "parquet"),
    )
    ids = {
        head: arrow.int64() if names.ids is None else arrow.string()
        for head, names in ((heads.key, heads.keys), (heads.value, heads.values))
    }
    schema = arrow.schema(
        [
            (heads.key, ids[heads.key]),
            ("rank", arrow.int32()),
            (heads.value, ids[heads.value]),
            ("score", arrow.float32()),
        ]
    )
    with parquet.ParquetWriter(path, schema) as writer:
        for group in _groups(iter(lists)):
            writer.write_table(arrow.Table.from_arrays(list(_columns(group, heads)), schema=schema))


def _groups(lists: Iterator[Ranked]) -> Iterator[list[Ranked]]:
    while group := list(islice(lists, ROW_GROUP)):
        yield group


def _columns(group: list[Ranked], heads: Heads) -> Iterator[Any]:
    arrow = need("pyarrow", "parquet", "writing parquet")
    yield arrow.array([heads.keys.id(one.key) for one in group for _ in one.items])
    yield arrow.array([rank for one in group for rank in range(1, len(one.items) + 1)], arrow.int32())
    yield arrow.array([heads.values.id(item) for one in group for item in one.items])
    yield arrow.array([score for one in group for score in one.scores], arrow.float32())
