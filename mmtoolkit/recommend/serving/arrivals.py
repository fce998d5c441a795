"""Read what is new in the shop, as `prepare` would: items to encode, and histories of users."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmtoolkit.core.config import config_layer, resolve
from mmtoolkit.core.errors import DataError, UsageError
from mmtoolkit.core.logging import logger
from mmtoolkit.recommend.data.dataset import FloatArray, IntArray, read_array
from mmtoolkit.recommend.load import Model
from mmtoolkit.recommend.prepare.catalogue import find_pictures, read_catalogue, read_item_names
from mmtoolkit.recommend.prepare.config import ColumnSettings, PrepareSettings
from mmtoolkit.recommend.prepare.encode import encode_batches
from mmtoolkit.recommend.prepare.encoders import load_encoder
from mmtoolkit.recommend.prepare.interactions import Interactions, read_interactions
from mmtoolkit.recommend.prepare.write import MANIFEST
from mmtoolkit.recommend.serving.names import Names


def new_item_features(
    model: Model, items: Path | None, images: Path | None, features: Sequence[str]
) -> tuple[Names, dict[str, FloatArray]]:
    """Encode new items as their data set was encoded, or take ready features.

    Args:
        model: its data set folder tells the encoders.
        items: catalogue of the new items.
        images: folder of their pictures.
        features: ready ones, each as `text=new_text.npy`; instead of the other two.

    Returns:
        Ids of the new items, and `(new, width)` for each modality.

    Raises:
        UsageError: if neither or both are given, or the data set was not made by `prepare`.
        DataError: if a file cannot be used.
    """
    if bool(features) == (items is not None):
        raise UsageError("give the new items with --items FILE (and --images FOLDER), or with --features")
    if items is None:
        if images is not None:
            raise UsageError(
                f"--images {images}: does nothing with --features; give --items FILE, or leave it out"
            )
        return _ready_features(features)
    settings, manifest = _preparation(model)
    if images is not None and "image" not in manifest["modalities"]:
        raise UsageError(f"--images {images}: the data set was prepared without pictures; leave it out")
    columns = settings.columns if images else settings.columns.model_copy(update={"image": None})
    options = _header_options(columns, {"item": "catalogue_item", "text": "text", "image": "image"})
    names = read_item_names(items, columns, options)
    texts_needed = "text" in manifest["modalities"]
    catalogue = read_catalogue(items, names, columns, texts_needed=texts_needed, options=options)
    inputs: dict[str, Sequence[Any]] = {"text": catalogue.texts}
    if images is not None:
        inputs["image"] = find_pictures(images, names, catalogue.pictures)
    encoded = {kind: told for kind, told in manifest["modalities"].items() if kind in inputs}
    if not encoded:
        raise UsageError(f"the data set has only {', '.join(manifest['modalities'])}; give --images FOLDER")
    rows = {kind: _encode(kind, told, inputs[kind], settings) for kind, told in encoded.items()}
    return Names("item", len(names), names), rows


def _ready_features(given: Sequence[str]) -> tuple[Names, dict[str, FloatArray]]:
    rows: dict[str, FloatArray] = {}
    for text in given:
        name, equals, file = text.partition("=")
        if not equals:
            raise UsageError(f"--features {text}: write NAME=FILE, as in text=new_text.npy")
        array = read_array(Path(file))
        if array.ndim != 2 or array.dtype.kind not in "fiu":
            raise DataError(
                f"expected numbers of shape (new items, width), found {array.shape}", path=Path(file)
            )
        rows[name] = array.astype(np.float32)
    counts = {name: len(array) for name, array in rows.items()}
    if len(set(counts.values())) > 1:
        raise UsageError(f"--features: different numbers of items: {counts}")
    return Names("item", next(iter(counts.values()))), rows


def _preparation(model: Model) -> tuple[PrepareSettings, dict[str, Any]]:
    """Read how the data set was prepared."""
    folder = model.settings.data.path
    path = Path() if folder is None else folder / MANIFEST
    if not path.is_file():
        raise UsageError(
            f"{folder}: not made by 'mmtk recommend prepare', so its encoders are unknown; "
            "encode the new items yourself and give them with --features NAME=FILE"
        )
    layer = config_layer("recommend", str(path.with_name("config.yaml")))
    return resolve(PrepareSettings, [layer]).settings, json.loads(path.read_text(encoding="utf-8"))


def _encode(kind: Any, told: dict[str, Any], inputs: Sequence[Any], settings: PrepareSettings) -> FloatArray:
    """Encode with the encoder that the manifest names."""
    from mmtoolkit.core.device import resolve_device

    encoder = load_encoder(told["encoder"], kind, resolve_device(settings.device))
    if encoder.sha256 != told["sha256"]:
        raise UsageError(f"{told['encoder']} is no longer the {kind} encoder that the data set was made with")
    return encode_batches(encoder, kind, inputs, getattr(settings, kind).batch_size)


def read_histories(model: Model, path: Path, items: Names) -> tuple[Names, list[IntArray]]:
    """Read what new users have; items that training never saw are left out.

    Returns:
        Ids of the new users, and the numbers of the items of each.

    Raises:
        DataError: naming the line that cannot be used, or if no known item is left.
    """
    columns, least = _how_histories_were_read(model)
    parts = () if least is None else ("rating",)
    options = _header_options(columns, {role: role for role in ("user", "item", "rating")})
    table = read_interactions(path, columns, parts, parts, options)
    if least is not None:
        table = _well_rated(table, least, path)
    numbers = np.array([-1 if (n := items.find(name)) is None else n for name in table.item_names])
    known = numbers[table.items] >= 0
    if not known.any():
        raise DataError(f"none of its items is known; {items.which()}", path=path)
    kept = table.pick(known)
    lost = len(table.user_names) - len(kept.user_names)
    if not known.all():
        logger.warning(
            "%s: %d of %d interactions are with unknown items; %d users have no other",
            *(path.name, int((~known).sum()), len(known), lost),
        )
    found = np.array([items.find(name) for name in kept.item_names], np.int64)
    order = np.argsort(kept.users, kind="stable")
    cuts = np.cumsum(np.bincount(kept.users))[:-1]
    histories = [np.unique(part) for part in np.split(found[kept.items[order]], cuts)]
    return Names("user", len(histories), kept.user_names), histories


def _well_rated(table: Interactions, least: float, path: Path) -> Interactions:
    """Leave out what the data set would not count as positive either."""
    rule = f"the data set counts ratings from {least:g} on (filter.min_rating)"
    if table.rating is None:
        raise DataError(f"no column looks like the rating, and {rule}; add a column 'rating'", path=path)
    good = table.rating >= least
    if not good.any():
        raise DataError(f"{rule}, and none of its ratings is as high", path=path)
    if not good.all():
        logger.info("%s: %d of %d interactions left out; %s", path.name, int((~good).sum()), len(good), rule)
    return table.pick(good)


def _how_histories_were_read(model: Model) -> tuple[ColumnSettings, float | None]:
    """Return the columns and the least rating of the data set's interactions."""
    folder = model.settings.data.path
    if folder is None or not (folder / MANIFEST).is_file():
        return ColumnSettings(), None
    settings = _preparation(model)[0]
    return settings.columns, settings.filter.min_rating


def _header_options(columns: ColumnSettings, names: Mapping[str, str]) -> dict[str, str]:
    """Say how a file of what is new shows its columns: as the data set's file did, for want of options."""
    return {
        role: "so named when the data set was prepared; name it so in this file's header"
        if getattr(columns, name)
        else f"'{'title' if role == 'text' else role}' in the header"
        for role, name in names.items()
    }
