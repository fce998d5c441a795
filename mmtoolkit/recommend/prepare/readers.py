"""Read rows from all raw formats: CSV, TSV, JSON lines, Amazon's dumps, RecBole's atomic files.

The suffix of the file name gives the format; `.gz` after it means gzip. Every reader yields `(line, row)`
with the row as a mapping, so that an error about a cell can name its line.
"""

import ast
import csv
import gzip
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, TextIO

from mmtoolkit.core.config import did_you_mean
from mmtoolkit.core.errors import DataError

Row = Mapping[str, Any]

JSON_SUFFIXES = {".jsonl", ".json", ".ndjson"}
DELIMITED_SUFFIXES = {".csv", ".tsv", ".txt", ".dat", ".inter", ".item"}
DELIMITERS = ("\t", ",", ";", "|")
LARGEST_CELL = 2**24
"""Characters of the longest cell that is read."""
PEEKED = 1000
"""Rows that are read to find the columns."""


class PlainTabs(csv.excel_tab):
    """Tab-separated files of RecBole and most exports: quotes are ordinary characters."""

    quoting = csv.QUOTE_NONE


GUESSES = {
    "user": (
        "user_id",
        "user",
        "reviewer_id",
        "customer_id",
        "customer",
        "client_id",
        "account_id",
        "visitor_id",
    ),
    "item": (
        "item_id",
        "item",
        "parent_asin",
        "asin",
        "product_id",
        "product",
        "sku",
        "article_id",
        "movie_id",
        "id",
    ),
    "rating": ("rating", "overall", "stars", "score"),
    "time": (
        "timestamp",
        "unix_review_time",
        "time",
        "datetime",
        "date",
        "created_at",
        "order_date",
        "event_time",
    ),
    "label": ("x_label",),
    "text": (
        *(
            "title",
            "name",
            "product_name",
            "item_name",
            "movie_title",
            "brand",
            "store",
            "category",
            "categories",
        ),
        *(
            "main_category",
            "genres",
            "genre",
            "class",
            "director",
            "actors",
            "features",
            "feature",
            "description",
        ),
        *("plot", "text"),
    ),
}
"""Usual names of the columns, the most specific first; case and punctuation do not matter."""


def read_rows(path: Path, header: Sequence[str] = ()) -> Iterator[tuple[int, Row]]:
    """Yield every row of a file with its line.

    Args:
        path: the file; its suffix gives the format.
        header: column names of a delimited file that has no header line.

    Raises:
        DataError: naming the line that cannot be read, and what to change.
    """
    inner = Path(path.stem) if path.suffix == ".gz" else path
    suffix = inner.suffix.lower()
    if suffix not in JSON_SUFFIXES | DELIMITED_SUFFIXES:
        known = " ".join(sorted(JSON_SUFFIXES | DELIMITED_SUFFIXES))
        raise DataError(f"unknown format '{suffix}'; name it one of {known} (or with .gz)", path=path)
    try:
        with _open(path) as stream:
            yield from (_json_rows if suffix in JSON_SUFFIXES else _delimited_rows)(path, stream, header)
    except UnicodeDecodeError:
        raise DataError("not UTF-8 text; save it as UTF-8", path=path) from None
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise DataError("damaged or incomplete gzip file; download it again", path=path) from None
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", path=path) from None


def read_table(path: Path, header: Sequence[str] = ()) -> tuple[list[str], Iterator[tuple[int, Row]]]:
    """Return the columns of a file and its rows, see :func:`read_rows`.

    Objects of JSON lines may lack some columns, so the columns are those of the first :data:`PEEKED` rows.

    Raises:
        DataError: if the file has no row.
    """
    rows = read_rows(path, header)
    first = list(islice(rows, PEEKED))
    if not first:
        raise DataError("no rows below the header", path=path)
    return list(dict.fromkeys(name for _, row in first for name in row)), chain(first, rows)


def _open(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def _delimited_rows(path: Path, stream: TextIO, header: Sequence[str]) -> Iterator[tuple[int, Row]]:
    """Read a table; cells may be quoted except in tab-separated files (as RecBole writes them)."""
    first = stream.readline()
    if not first.strip():
        raise DataError("is empty; expected a header and rows", path=path)
    delimiter = max(DELIMITERS, key=first.count)
    csv.field_size_limit(LARGEST_CELL)
    dialect = PlainTabs if delimiter == "\t" else csv.excel
    lines = csv.reader(chain([first], stream), dialect, delimiter=delimiter, strict=True)
    try:
        names = list(header) or [cell.partition(":")[0].strip() for cell in next(lines)]
        _check_header(path, names)
        for cells in lines:
            if len(cells) == len(names):
                yield lines.line_num, dict(zip(names, cells, strict=True))
            elif cells:
                raise DataError(
                    f"{len(cells)} columns where the header has {len(names)}; correct or delete this line",
                    path=path,
                    line=lines.line_num,
                )
    except csv.Error as error:
        raise DataError(f"{error}; correct or delete this line", path=path, line=lines.line_num) from None


def _check_header(path: Path, names: Sequence[str]) -> None:
    twice = [name for index, name in enumerate(names) if name in names[:index]]
    if twice:
        raise DataError(f"two columns are named '{twice[0]}'; rename one", path=path, line=1)


def _json_rows(path: Path, stream: TextIO, header: Sequence[str]) -> Iterator[tuple[int, Row]]:
    if header:
        raise DataError("columns.header is for tables; JSON lines name their own columns", path=path)
    empty = True
    for number, line in enumerate(stream, start=1):
        if not line.strip():
            continue
        empty = False
        row = _json_object(line)
        if not isinstance(row, dict):
            hint = "; write one object per line, not one array" if line.lstrip().startswith("[") else ""
            raise DataError(f"not a JSON object{hint or '; correct this line'}", path=path, line=number)
        yield number, row
    if empty:
        raise DataError("is empty; expected one JSON object per line", path=path)


def _json_object(line: str) -> Any:
    """Parse JSON, or the Python literals of Amazon's older dumps (without evaluating code)."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        pass
    try:
        return ast.literal_eval(line.strip()) if line.lstrip().startswith("{'") else None
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None


def choose_column(path: Path, names: Sequence[str], role: str, wanted: str | None, option: str) -> str | None:
    """Find the column of a role: the one that the user named, else the best guess by name.

    Args:
        path: of the file, for messages.
        names: all columns of the file.
        role: key of :data:`GUESSES`.
        wanted: column that the user named, if any.
        option: how the user names it, for messages.

    Raises:
        DataError: if the file lacks the named column.
    """
    if wanted is None:
        by_name = {_plain(name): name for name in reversed(names)}
        return next((by_name[_plain(guess)] for guess in GUESSES[role] if _plain(guess) in by_name), None)
    if wanted not in names:
        raise DataError(
            f"no column '{wanted}' ({option}){did_you_mean(wanted, names)}; "
            f"the columns are: {', '.join(names)}",
            path=path,
            line=1,
        )
    return wanted


def need_column(path: Path, names: Sequence[str], role: str, wanted: str | None, option: str) -> str:
    """Find the column of a role that is required.

    Raises:
        DataError: if no column fits.
    """
    found = choose_column(path, names, role, wanted, option)
    if found is None:
        raise DataError(
            f"no column looks like the {role}; name it with {option}; the columns are: {', '.join(names)}",
            path=path,
            line=1,
        )
    return found


def guess_text_columns(names: Sequence[str]) -> tuple[str, ...]:
    """List the columns that usually contain text, the title first."""
    by_name = {_plain(name): name for name in reversed(names)}
    found = [by_name[_plain(guess)] for guess in GUESSES["text"] if _plain(guess) in by_name]
    return tuple(dict.fromkeys(found))


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


def identifier(value: Any) -> str:
    """Return an id as text; empty if it is missing or does not fit into a tab-separated file."""
    if value is None or isinstance(value, bool | list | dict):
        return ""
    text = str(value).strip()
    return text if text.isprintable() else ""
