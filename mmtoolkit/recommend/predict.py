"""Recommend items with a trained run."""

import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, TextIO

import numpy as np
import scipy.sparse as sp

from mmtoolkit.core.errors import DataError, UsageError
from mmtoolkit.recommend.data import SPLITS, IntArray
from mmtoolkit.recommend.evaluate import top_items
from mmtoolkit.recommend.load import Model

Seen = Literal["train", "validation", "all"]


@dataclass(frozen=True)
class Recommendation:
    """The best items of one user, best first."""

    user: int
    items: list[int]
    scores: list[float]


def predict(model: Model, users: IntArray, top_k: int = 20, seen: Seen = "train") -> Iterator[Recommendation]:
    """Recommend the best unseen items for some users.

    Args:
        model: from :func:`mmtoolkit.recommend.load.load_model`.
        users: ids, `(n,)`; lists come in this order.
        top_k: length of the lists; shorter where fewer items are unseen.
        seen: what counts as seen: training items, those and validation, or all splits.
    """
    splits = SPLITS[: {"train": 1, "validation": 2, "all": 3}[seen]]
    known = sp.csr_array(sum(model.data.split(name) for name in splits))
    batch = model.settings.evaluate.batch_size
    for block, items, scores in top_items(model.users, model.items, known, users, top_k, batch):
        for user, row, values in zip(block.tolist(), items.tolist(), scores.tolist(), strict=True):
            length = int(np.isfinite(values).sum())
            yield Recommendation(user, row[:length], values[:length])


def prediction_format(path: Path | None, wanted: str | None) -> str:
    """Choose `csv` or `jsonl` from what was asked or from the file's name.

    Raises:
        UsageError: if the name says neither, or the file's folder is missing.
    """
    if path is not None and not path.parent.is_dir():
        raise UsageError(f"--output {path}: no folder {path.parent}; make it first")
    known = {".csv": "csv", ".jsonl": "jsonl"}
    if wanted or path is None:
        return wanted or "csv"
    if path.suffix not in known:
        raise UsageError(f"--output {path}: name it .csv or .jsonl, or give --format")
    return known[path.suffix]


def write_predictions(lists: Iterable[Recommendation], path: Path | None, kind: str) -> None:
    """Write lists as they come, to a file (whole or not at all) or to stdout.

    CSV has a line `user,rank,item,score` for each item, JSON lines an object for each user.
    """
    if path is None:
        _write_lines(lists, sys.stdout, kind)
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8") as stream:
            _write_lines(lists, stream, kind)
        temporary.replace(path)
    except OSError as error:
        raise UsageError(f"--output {path}: cannot be written: {error.strerror}") from None
    finally:
        temporary.unlink(missing_ok=True)


def _write_lines(lists: Iterable[Recommendation], stream: TextIO, kind: str) -> None:
    if kind == "csv":
        stream.write("user,rank,item,score\n")
    for one in lists:
        if kind == "jsonl":
            stream.write(json.dumps(asdict(one)) + "\n")
            continue
        for rank, (item, score) in enumerate(zip(one.items, one.scores, strict=True), start=1):
            stream.write(f"{one.user},{rank},{item},{score:.6g}\n")


def parse_users(given: Sequence[str], users: int) -> IntArray:
    """Read user ids from files (one a line) or from the command line (`5`, `5,7`); none means all.

    Raises:
        UsageError: if an id is no whole number or no user has it.
        DataError: if a file cannot be read, naming the line of a bad id.
    """
    if not given:
        return np.arange(users)
    found: list[int] = []
    for text in given:
        if Path(text).is_file():
            found += _users_in_file(Path(text), users)
            continue
        for part in text.split(","):
            if not part.strip().isdecimal():
                raise UsageError(f"--users {part}: neither a file nor a user id")
            if int(part) >= users:
                raise UsageError(f"--users {part}: no such user; ids run from 0 to {users - 1}")
            found.append(int(part))
    return np.array(found, dtype=np.int64)


def _users_in_file(path: Path, users: int) -> list[int]:
    found = []
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError):
        raise DataError("cannot be read as text; give one user id a line", path=path) from None
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if not text:
            continue
        if not text.isdecimal() or int(text) >= users:
            raise DataError(
                f"'{text}' is no user id; ids run from 0 to {users - 1}, one a line",
                path=path,
                line=number,
            )
        found.append(int(text))
    if not found:
        raise DataError("holds no user id; give one a line", path=path)
    return found
