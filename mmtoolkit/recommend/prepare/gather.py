"""Read raw files, filter and split them: everything that `prepare` does before it encodes and writes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmtoolkit.core.errors import DataError
from mmtoolkit.core.logging import logger
from mmtoolkit.recommend.data.dataset import SPLITS, IntArray
from mmtoolkit.recommend.prepare.catalogue import Catalogue, find_pictures, read_catalogue
from mmtoolkit.recommend.prepare.config import EncoderSettings, PrepareSettings
from mmtoolkit.recommend.prepare.encode import open_picture
from mmtoolkit.recommend.prepare.encoders import Kind
from mmtoolkit.recommend.prepare.interactions import Interactions, read_interactions
from mmtoolkit.recommend.prepare.split import filter_interactions, split_interactions


@dataclass(frozen=True)
class Material:
    """Everything that is read before anything is written.

    Attributes:
        table: the interactions that are kept.
        labels: their splits, `(n,)`: 0 train, 1 validation, 2 test.
        catalogue: texts of the items.
        pictures: picture file of each item, or None.
        counts: numbers of what was read, dropped and kept.
    """

    table: Interactions
    labels: IntArray
    catalogue: Catalogue
    pictures: list[Path | None]
    counts: dict[str, Any]

    def inputs(self, kind: Kind) -> list[str] | list[Path | None]:
        """Return the encoder's input for each item."""
        return self.catalogue.texts if kind == "text" else self.pictures


def gather(settings: PrepareSettings) -> Material:
    """Read, filter and split the raw files, without writing anything.

    Raises:
        DataError: naming the file and line that cannot be used, and the remedy.
    """
    raw = read_interactions(settings.interactions, settings.columns, needed=_needed_parts(settings))
    logger.info("%s: %d interactions", settings.interactions.name, len(raw))
    kept, dropped = filter_interactions(raw, settings.filter)
    table, labels, idle = split_interactions(kept, settings.split, settings.seed)
    catalogue = read_catalogue(
        settings.items, table.item_names, settings.columns, texts_needed=settings.text.encoder != "none"
    )
    pictures = find_pictures(settings.images, table.item_names, catalogue.pictures)
    _check_inputs(settings, catalogue, pictures)
    counts = {
        "read": _sizes(raw),
        "dropped": dropped | {"users_without_training": idle, "catalogue_rows": catalogue.unknown},
        "kept": _sizes(table),
        "splits": {name: int((labels == number).sum()) for number, name in enumerate(SPLITS)},
    }
    return Material(table, labels, catalogue, pictures, counts)


def _needed_parts(settings: PrepareSettings) -> set[str]:
    """Return the parts of an interaction that the filters and the split need."""
    needs = {
        "rating": settings.filter.min_rating is not None,
        "time": settings.split.kind in ("leave-one-out", "time") or settings.filter.duplicates == "last",
        "label": settings.split.kind == "given",
    }
    return {part for part, need in needs.items() if need}


def _check_inputs(settings: PrepareSettings, catalogue: Catalogue, pictures: Sequence[Path | None]) -> None:
    """Refuse a modality that no item has."""
    kinds = modalities(settings)
    if "text" in kinds and not any(catalogue.texts):
        raise DataError(
            f"no item that is kept has a text in {catalogue.columns['text']}; "
            "name other columns with `text_column`, or leave texts out with `text_encoder` none",
            path=settings.items,
        )
    if "image" in kinds and not any(open_picture(path) for path in pictures if path):
        raise DataError(
            "no picture of an item that is kept can be read; save them as .jpg or .png, "
            "or leave pictures out with `image_encoder` none",
            path=settings.images,
        )


def _sizes(table: Interactions) -> dict[str, int]:
    return {
        "users": len(table.user_names),
        "items": len(table.item_names),
        "interactions": len(table),
    }


def modalities(settings: PrepareSettings) -> dict[Kind, EncoderSettings]:
    """Return the modalities to encode, with their settings."""
    found: dict[Kind, EncoderSettings] = {}
    if settings.items is not None and settings.text.encoder != "none":
        found["text"] = settings.text
    if settings.images is not None and settings.image.encoder != "none":
        found["image"] = settings.image
    return found
