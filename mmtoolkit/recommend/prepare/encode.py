"""Encode the texts or the pictures of all items in batches; a kill loses at most one batch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from mmtoolkit.core.errors import DataError, UsageError
from mmtoolkit.core.logging import logger
from mmtoolkit.core.progress import progress_bar
from mmtoolkit.recommend.data.dataset import FloatArray, IntArray
from mmtoolkit.recommend.prepare.config import EncoderSettings
from mmtoolkit.recommend.prepare.encoders import Encoder, Kind


@dataclass(frozen=True)
class Features:
    """Encoded items of one modality.

    Attributes:
        rows: `(items, width)`.
        missing: number of items without this modality.
        unreadable: number of items whose file could not be read.
    """

    rows: FloatArray
    missing: int
    unreadable: int


def encode_items(
    encoder: Encoder,
    kind: Kind,
    inputs: Sequence[str] | Sequence[Path | None],
    partial: Path,
    settings: EncoderSettings,
) -> Features:
    """Encode every item that has an input, continuing after the batches in `partial`.

    Finished batches are appended to `partial` as raw float32, so that its length gives their number. The
    batches are the same in every run, so an interrupted encoding ends with the same bits.

    Args:
        encoder: from :func:`mmtoolkit.recommend.prepare.encoders.load_encoder`.
        kind: `text` or `image`.
        inputs: texts or picture files; empty or None for an item without one.
        partial: file of the finished batches.
        settings: batch size, and the features of missing items.

    Raises:
        DataError: if no item could be encoded.
        UsageError: if the partial file cannot be written.
    """
    order = encoding_order(inputs)
    batches = [
        order[start : start + settings.batch_size] for start in range(0, len(order), settings.batch_size)
    ]
    try:
        done = _whole_batches(partial, batches, encoder.width)
        with partial.open("ab") as stream, progress_bar(f"{kind}s, batches", len(batches), done) as advance:
            for batch in batches[done:]:
                rows = ENCODERS[kind](encoder, [inputs[item] for item in batch])
                stream.write(rows.tobytes())
                stream.flush()
                advance("")
    except OSError as error:
        raise UsageError(f"{partial}: cannot be written: {error.strerror}") from None
    encoded = np.fromfile(partial, np.float32).reshape(-1, encoder.width)
    return _fill(encoded, order, len(inputs), kind, settings.missing)


def encode_batches(encoder: Encoder, kind: Kind, inputs: Sequence[Any], batch_size: int) -> FloatArray:
    """Encode items in memory, `(items, width)`; 0 for an item without a readable input."""
    rows = np.zeros((len(inputs), encoder.width), np.float32)
    order = encoding_order(inputs)
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        rows[batch] = np.nan_to_num(ENCODERS[kind](encoder, [inputs[item] for item in batch]))
    return rows


def encoding_order(inputs: Sequence[Any]) -> IntArray:
    """Return the indices of the items that have an input; texts from long to short, for less padding."""
    lengths = np.array([len(x) if isinstance(x, str) else x is not None for x in inputs], np.int64)
    order = np.argsort(-lengths, kind="stable")
    return order[lengths[order] > 0]


def _whole_batches(partial: Path, batches: Sequence[IntArray], width: int) -> int:
    """Count the batches in the partial file, and remove the rest of a batch that a kill interrupted."""
    ends = np.cumsum([0, *(len(batch) for batch in batches)]) * width * 4
    size = partial.stat().st_size if partial.is_file() else 0
    done = int(np.searchsorted(ends, size, side="right")) - 1
    if size > ends[done]:
        with partial.open("r+b") as stream:
            stream.truncate(int(ends[done]))
    if done:
        logger.info("%s: continuing after batch %d of %d", partial.name, done, len(batches))
    return done


def _encode_texts(encoder: Encoder, texts: Sequence[str]) -> FloatArray:
    return encoder.encode(texts)


def _encode_pictures(encoder: Encoder, paths: Sequence[Path]) -> FloatArray:
    """Encode picture files; unreadable ones give NaN."""
    rows = np.full((len(paths), encoder.width), np.nan, np.float32)
    opened = []
    for row, path in enumerate(paths):
        picture = open_picture(path)
        if picture is None:
            logger.warning("%s: not a readable picture; its item counts as missing", path)
        else:
            opened.append((row, picture))
    if opened:
        rows[[row for row, _ in opened]] = encoder.encode([picture for _, picture in opened])
    return rows


ENCODERS: dict[Kind, Callable[[Encoder, Sequence[Any]], FloatArray]] = {
    "text": _encode_texts,
    "image": _encode_pictures,
}


def open_picture(path: Path) -> Image.Image | None:
    """Return the picture upright, as RGB, with a white background; None if it is damaged."""
    try:
        with Image.open(path) as file:
            picture = ImageOps.exif_transpose(file)
            if picture.has_transparency_data:
                picture = picture.convert("RGBA")
                background = Image.new("RGBA", picture.size, "white")
                picture = Image.alpha_composite(background, picture)
            return picture.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def _fill(encoded: FloatArray, order: IntArray, items: int, kind: Kind, missing: str) -> Features:
    readable = np.isfinite(encoded).all(axis=1)
    if not readable.any():
        raise DataError(f"no item has a readable {kind}; leave this modality out with `{kind}_encoder` none")
    rows = np.zeros((items, encoded.shape[1]), np.float32)
    if missing == "mean":
        rows[:] = encoded[readable].mean(axis=0)
    rows[order[readable]] = encoded[readable]
    return Features(rows, items - len(order), int((~readable).sum()))
