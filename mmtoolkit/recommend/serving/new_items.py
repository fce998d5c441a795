"""Place new items among the trained ones without training again.

A new item is placed at the weighted mean of its nearest items by modality, in the trained item space.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mmtoolkit.core.device import resolve_device
from mmtoolkit.core.errors import DataError, UsageError
from mmtoolkit.recommend.data.arrays import read_array
from mmtoolkit.recommend.data.dataset import FloatArray
from mmtoolkit.recommend.graphs.graph import BLOCK_ENTRIES, modality_weights
from mmtoolkit.recommend.load import Model
from mmtoolkit.recommend.prepare.catalogue import find_pictures, read_catalogue, read_item_names
from mmtoolkit.recommend.prepare.config import PrepareSettings
from mmtoolkit.recommend.prepare.encode import encode_batches
from mmtoolkit.recommend.prepare.encoders import load_encoder
from mmtoolkit.recommend.prepare.manifest import header_options, read_preparation
from mmtoolkit.recommend.serving.lists import Ranked, ranked
from mmtoolkit.recommend.serving.names import Names


@dataclass(frozen=True)
class NewItems:
    """Items that training never saw.

    Attributes:
        vectors: positions in the trained item space, `(new, width)`.
        nearest: the nearest known items of each, with their weights in the mean as scores.
    """

    vectors: Tensor
    nearest: list[Ranked]


def place_items(model: Model, features: Mapping[str, FloatArray]) -> NewItems:
    """Place new items among the trained ones by their features.

    Each modality m of an item gives the weight phi_m / k to each of the item's k nearest known items by
    cosine (k = `graph.neighbours`); the weights of an item are then scaled to a sum of 1.

    Args:
        model: from :func:`mmtoolkit.recommend.load.load`.
        features: by modality, `(new, width)`; a row of zeros if nothing is known.

    Raises:
        UsageError: if the model has no embeddings.
        DataError: if a modality is unknown, has another width or no features, or an item has no features.
    """
    items = model.representations("new-items")[1]
    weights = modality_weights(model.data.modalities, model.settings.data.modalities)
    known = {name: _unit(_known_features(model, name, rows), items) for name, rows in features.items()}
    new = {name: _unit(rows, items) for name, rows in features.items()}
    count = len(next(iter(features.values())))
    if not count:
        raise DataError("`features`: no row, so there is no new item")
    vectors: list[Tensor] = []
    nearest: list[Ranked] = []
    for start in range(0, count, step := max(1, BLOCK_ENTRIES // len(items))):
        mixture = torch.zeros(min(step, count - start), len(items), device=items.device)
        for name, rows in new.items():
            block = rows[start : start + step]
            _add_nearest(mixture, block, known[name], model.settings.graph.neighbours, weights.get(name, 0))
        mixture /= _totals(mixture, start)
        best = mixture.topk(min(len(features) * model.settings.graph.neighbours, len(items)), dim=1)
        shown = best.values.where(best.values > 0, -torch.inf)
        vectors.append(mixture @ items)
        nearest += ranked(np.arange(start, start + len(mixture)), best.indices, shown)
    return NewItems(torch.cat(vectors), nearest)


def _unit(rows: FloatArray, like: Tensor) -> Tensor:
    return F.normalize(torch.from_numpy(rows).to(like), dim=1)


def _totals(mixture: Tensor, start: int) -> Tensor:
    total = mixture.sum(dim=1, keepdim=True)
    empty = torch.nonzero(total[:, 0] == 0)
    if len(empty):
        raise DataError(
            f"new item {start + int(empty[0])} (counted from 0) has no text or picture to find its "
            "neighbours by; leave it out"
        )
    return total


def _known_features(model: Model, name: str, rows: FloatArray) -> FloatArray:
    known = model.data.modalities.get(name)
    if known is None or known.features is None:
        have = ", ".join(n for n, m in model.data.modalities.items() if m.features is not None) or "none"
        raise DataError(f"the data set has no features of modality '{name}' (with features: {have})")
    if rows.shape[1] != known.features.shape[1]:
        raise DataError(
            f"modality '{name}': vectors of width {rows.shape[1]}, the data set has "
            f"{known.features.shape[1]}; encode with the same encoder"
        )
    return known.features


def _add_nearest(mixture: Tensor, new: Tensor, known: Tensor, k: int, phi: float) -> None:
    """Add phi / k at the k nearest known items of each new one."""
    scores = new @ known.T
    scores[:, ~known.any(dim=1)] = -2
    best = scores.topk(min(k, len(known)), dim=1)
    weight = (best.values > -2) & new.any(dim=1, keepdim=True)
    mixture.scatter_add_(1, best.indices, weight.to(mixture) * (phi / best.values.shape[1]))


def audience(model: Model, new: NewItems, top_k: int) -> Iterator[Ranked]:
    """Find the users with the highest scores for each new item.

    The scores are inner products alone, without the history term, as a new item is in no history yet.
    """
    users = model.representations("new-items")[0]
    for start in range(0, len(new.vectors), step := max(1, BLOCK_ENTRIES // len(users))):
        block = new.vectors[start : start + step]
        best = (block @ users.T).topk(min(top_k, len(users)), dim=1)
        yield from ranked(np.arange(start, start + len(block)), best.indices, best.values)


def new_item_features(
    model: Model, items: Path | None, images: Path | None, features: Sequence[str]
) -> tuple[Names, dict[str, FloatArray]]:
    """Encode new items like the data set, or read their features from files.

    Args:
        model: the folder of its data set names the encoders.
        items: catalogue of the new items.
        images: folder of their pictures.
        features: files of features instead of the other two, each as `text=new_text.npy`.

    Returns:
        Ids of the new items, and `(new, width)` for each modality.

    Raises:
        UsageError: if neither or both are given, or the data set was not made by `prepare`.
        DataError: if a file cannot be used.
    """
    if bool(features) == (items is not None):
        raise UsageError("give the new items with `items` FILE (and `images` FOLDER), or with `features`")
    if items is None:
        if images is not None:
            raise UsageError(
                f"`images` {images}: does nothing with `features`; give `items` FILE, or leave it out"
            )
        return _ready_features(features)
    settings, manifest = read_preparation(model.settings.data.path)
    if images is not None and "image" not in manifest["modalities"]:
        raise UsageError(f"`images` {images}: the data set was prepared without pictures; leave it out")
    columns = settings.columns if images else settings.columns.model_copy(update={"image": None})
    options = header_options(columns, {"item": "catalogue_item", "text": "text", "image": "image"})
    names = read_item_names(items, columns, options)
    texts_needed = "text" in manifest["modalities"]
    catalogue = read_catalogue(items, names, columns, texts_needed=texts_needed, options=options)
    inputs: dict[str, Sequence[Any]] = {"text": catalogue.texts}
    if images is not None:
        inputs["image"] = find_pictures(images, names, catalogue.pictures)
    encoded = {kind: entry for kind, entry in manifest["modalities"].items() if kind in inputs}
    if not encoded:
        raise UsageError(f"the data set has only {', '.join(manifest['modalities'])}; give `images` FOLDER")
    rows = {kind: _encode(kind, entry, inputs[kind], settings) for kind, entry in encoded.items()}
    return Names("item", len(names), names), rows


def _ready_features(given: Sequence[str]) -> tuple[Names, dict[str, FloatArray]]:
    rows: dict[str, FloatArray] = {}
    for text in given:
        name, equals, file = text.partition("=")
        if not equals:
            raise UsageError(f"`features` {text}: write NAME=FILE, as in text=new_text.npy")
        array = read_array(Path(file))
        if array.ndim != 2 or array.dtype.kind not in "fiu":
            raise DataError(
                f"expected numbers of shape (new items, width), found {array.shape}", path=Path(file)
            )
        rows[name] = array.astype(np.float32)
    counts = {name: len(array) for name, array in rows.items()}
    if len(set(counts.values())) > 1:
        raise UsageError(f"`features`: different numbers of items: {counts}")
    return Names("item", next(iter(counts.values()))), rows


def _encode(
    kind: Any, manifest_entry: dict[str, Any], inputs: Sequence[Any], settings: PrepareSettings
) -> FloatArray:
    """Encode with the encoder that the manifest names."""
    encoder = load_encoder(manifest_entry["encoder"], kind, resolve_device(settings.device))
    if encoder.sha256 != manifest_entry["sha256"]:
        raise UsageError(
            f"{manifest_entry['encoder']} is no longer the {kind} encoder that the data set was made with"
        )
    return encode_batches(encoder, kind, inputs, getattr(settings, kind).batch_size)
