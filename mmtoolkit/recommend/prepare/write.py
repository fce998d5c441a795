"""Make a data set folder from raw files: the work behind `mmtk recommend prepare`.

FOLDER/
  config.yaml command.txt env.json run.log      what was asked, and where it ran
  NAME.inter u_id_mapping.csv i_id_mapping.csv  interactions with split labels; ids of the shop
  items.jsonl                                   id, title, text and picture of each item
  text_feat.npy image_feat.npy                  features, (items, width)
  manifest.json                                 counts, hashes, encoders; written last
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmtoolkit import __version__
from mmtoolkit.core.device import resolve_device
from mmtoolkit.core.errors import DataError, UsageError
from mmtoolkit.core.logging import logger
from mmtoolkit.core.run import RunDirectory, write_atomic
from mmtoolkit.recommend.data.dataset import SPLITS, FloatArray, IntArray
from mmtoolkit.recommend.prepare.catalogue import Catalogue, find_pictures, read_catalogue
from mmtoolkit.recommend.prepare.config import EncoderSettings, PrepareSettings
from mmtoolkit.recommend.prepare.encode import encode_items, open_picture
from mmtoolkit.recommend.prepare.encoders import Encoder, Kind, load_encoder, locate
from mmtoolkit.recommend.prepare.interactions import Interactions, read_interactions
from mmtoolkit.recommend.prepare.split import filter_interactions, split_interactions

MANIFEST = "manifest.json"
SOURCES = ".sources.json"


@dataclass(frozen=True)
class Material:
    """Everything that is read before anything is written.

    Attributes:
        table: the interactions that stay.
        labels: their splits, `(n,)`.
        catalogue: texts of the items.
        pictures: files of the items.
        counts: what was read, dropped and kept, by stage.
    """

    table: Interactions
    labels: IntArray
    catalogue: Catalogue
    pictures: list[Path | None]
    counts: dict[str, Any]

    def inputs(self, kind: Kind) -> list[str] | list[Path | None]:
        """Return what an encoder gets for each item."""
        return self.catalogue.texts if kind == "text" else self.pictures


def gather(settings: PrepareSettings) -> Material:
    """Read, filter and split; nothing is written.

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
    """List the parts of an interaction without which it cannot be filtered and split as asked."""
    needs = {
        "rating": settings.filter.min_rating is not None,
        "time": settings.split.kind in ("leave-one-out", "time") or settings.filter.duplicates == "last",
        "label": settings.split.kind == "given",
    }
    return {part for part, need in needs.items() if need}


def _check_inputs(settings: PrepareSettings, catalogue: Catalogue, pictures: Sequence[Path | None]) -> None:
    """Refuse a modality that no item has, before anything is written."""
    kinds = modalities(settings)
    if "text" in kinds and not any(catalogue.texts):
        raise DataError(
            f"no item that stays has a text in {catalogue.columns['text']}; "
            "name other columns with --text-column, or leave texts out with --text-encoder none",
            path=settings.items,
        )
    if "image" in kinds and not any(open_picture(path) for path in pictures if path):
        raise DataError(
            "no picture of an item that stays can be read; save them anew as .jpg or .png, "
            "or leave pictures out with --image-encoder none",
            path=settings.images,
        )


def _sizes(table: Interactions) -> dict[str, int]:
    return {
        "users": len(table.user_names),
        "items": len(table.item_names),
        "interactions": len(table),
    }


def modalities(settings: PrepareSettings) -> dict[Kind, EncoderSettings]:
    """Return the modalities that are to be encoded."""
    found: dict[Kind, EncoderSettings] = {}
    if settings.items is not None and settings.text.encoder != "none":
        found["text"] = settings.text
    if settings.images is not None and settings.image.encoder != "none":
        found["image"] = settings.image
    return found


def describe(settings: PrepareSettings) -> dict[str, int | str]:
    """Check everything short of encoding, and tell the sizes.

    Raises:
        DataError: if a file cannot be used.
        UsageError: if an encoder is not there.
    """
    chosen = modalities(settings)
    for kind, encoder in chosen.items():
        locate(encoder.encoder, kind, fetch=False)
    material = gather(settings)
    facts: dict[str, int | str] = {
        f"{k}_{stage}": v for stage in ("read", "kept") for k, v in material.counts[stage].items()
    }
    facts |= {f"dropped_{name}": n for name, n in material.counts["dropped"].items()}
    facts |= material.counts["splits"]
    facts |= {f"column_{role}": column for role, column in material.table.columns.items()}
    facts |= {f"catalogue_{role}": column for role, column in material.catalogue.columns.items()}
    for kind, encoder in chosen.items():
        facts[f"{kind}s"] = sum(1 for one in material.inputs(kind) if one)
        facts[f"{kind}_encoder"] = encoder.encoder
    return facts


def prepare(settings: PrepareSettings, run: RunDirectory) -> dict[str, Any]:
    """Make the data set folder, or continue one that was interrupted, to the same bits.

    Args:
        settings: all settings.
        run: the folder; made once the raw files have proved usable.

    Returns:
        The manifest.

    Raises:
        DataError: naming the file and line that cannot be used; nothing has been written then.
        UsageError: if an encoder is not there, or raw files changed since the folder was begun.
    """
    material = gather(settings)
    device = resolve_device(settings.device)
    encoders = {kind: load_encoder(e.encoder, kind, device) for kind, e in modalities(settings).items()}
    sources = _sources(settings, material, encoders)
    _check_sources(run.path / SOURCES, sources)
    run.start()
    with run.logging():
        write_atomic(run.path / SOURCES, json.dumps(sources, indent=2) + "\n")
        _write_tables(run.path, material)
        told = {kind: _encode(run.path, kind, material, encoders[kind], settings) for kind in encoders}
        return _finish(run.path, settings, material, sources, told)


def _sources(
    settings: PrepareSettings, material: Material, encoders: Mapping[Kind, Encoder]
) -> dict[str, Any]:
    """Hash whatever decides the bits of the folder."""
    digest = hashlib.sha256()
    for picture in material.pictures:
        digest.update(f"{picture.name} {picture.stat().st_size}\n".encode() if picture else b"\n")
    files = {"interactions": settings.interactions, "items": settings.items}
    return {
        "files": {
            role: {"name": path.name, "bytes": path.stat().st_size, "sha256": _sha256(path)}
            for role, path in files.items()
            if path is not None
        },
        "pictures": {"names_and_sizes_sha256": digest.hexdigest()} if settings.images else {},
        "encoders": {kind: {"name": e.name, "sha256": e.sha256} for kind, e in encoders.items()},
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _check_sources(path: Path, sources: Mapping[str, Any]) -> None:
    """Refuse to continue with other raw files or encoders than the folder was begun with."""
    if path.is_file() and json.loads(path.read_text(encoding="utf-8")) != sources:
        raise UsageError(
            f"{path.parent}: raw files or encoders changed since this was begun; prepare a new folder"
        )


def _write_tables(folder: Path, material: Material) -> None:
    table = material.table
    names = {"u_id_mapping.csv": ("user_id\tuserID", table.user_names)}
    names["i_id_mapping.csv"] = ("item_id\titemID", table.item_names)
    for file, (header, ids) in names.items():
        lines = [header, *(f"{name}\t{number}" for number, name in enumerate(ids))]
        write_atomic(folder / file, "\n".join(lines) + "\n")
    optional = {"rating": table.rating, "timestamp": table.time}
    columns: dict[str, NDArray[Any]] = {"userID": table.users, "itemID": table.items}
    columns |= {name: values for name, values in optional.items() if values is not None}
    columns |= {"x_label": material.labels}
    rows = zip(*(map(_plain, values.tolist()) for values in columns.values()), strict=True)
    lines = ["\t".join(columns), *("\t".join(row) for row in rows)]
    write_atomic(_inter_path(folder), "\n".join(lines) + "\n")
    _drop_old_name(_inter_path(folder))
    parts = zip(
        table.item_names, material.catalogue.titles, material.catalogue.texts, material.pictures, strict=True
    )
    objects = (
        {"item_id": name, "title": title, "text": text, "image": picture.name if picture else None}
        for name, title, text, picture in parts
    )
    write_atomic(
        folder / "items.jsonl", "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in objects)
    )


def _inter_path(folder: Path) -> Path:
    return folder / f"{folder.absolute().name}.inter"


def _drop_old_name(inter: Path) -> None:
    """Remove the same interactions under the name that the folder had before it was renamed."""
    for other in sorted(inter.parent.glob("*.inter")):
        if other != inter and _sha256(other) == _sha256(inter):
            other.unlink()


def _plain(number: float) -> str:
    """Write whole numbers without a point."""
    return str(int(number)) if number == int(number) else repr(number)


def _encode(
    folder: Path, kind: Kind, material: Material, encoder: Encoder, settings: PrepareSettings
) -> dict[str, Any]:
    """Encode one modality, write its features, and tell what the manifest says of it."""
    chosen = modalities(settings)[kind]
    features = encode_items(encoder, kind, material.inputs(kind), _partial(folder, kind), chosen)
    _save_array(folder / f"{kind}_feat.npy", features.rows)
    items = len(features.rows)
    absent = features.missing + features.unreadable
    logger.info("%s: %d of %d items encoded with %s", kind, items - absent, items, encoder.name)
    return {
        "encoder": encoder.name,
        "sha256": encoder.sha256,
        "width": encoder.width,
        "items_encoded": items - absent,
        "items_missing": features.missing,
        "items_unreadable": features.unreadable,
        "missing_filled_with": chosen.missing,
    }


def _partial(folder: Path, kind: Kind) -> Path:
    return folder / f".{kind}.partial"


def _save_array(path: Path, array: FloatArray) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("wb") as stream:
        np.save(stream, array)
    temporary.replace(path)


def _finish(
    folder: Path,
    settings: PrepareSettings,
    material: Material,
    sources: Mapping[str, Any],
    told: Mapping[Kind, Mapping[str, Any]],
) -> dict[str, Any]:
    """Write the manifest and remove what only an interrupted preparation needs."""
    written = [_inter_path(folder).name, "u_id_mapping.csv", "i_id_mapping.csv", "items.jsonl"]
    written += [f"{kind}_feat.npy" for kind in told]
    manifest = {
        "name": folder.absolute().name,
        "mmtoolkit": __version__,
        "counts": material.counts,
        "columns": {"interactions": material.table.columns, "items": material.catalogue.columns},
        "filter": settings.filter.model_dump(),
        "split": settings.split.model_dump(mode="json") | {"seed": settings.seed},
        "modalities": told,
        "sources": sources,
        "files": {name: {"sha256": _sha256(folder / name)} for name in written},
    }
    write_atomic(folder / MANIFEST, json.dumps(manifest, indent=2) + "\n")
    for kind in told:
        _partial(folder, kind).unlink()
    return manifest


def check_unfinished(run: RunDirectory) -> None:
    """Refuse to continue what is finished, or is no preparation.

    Raises:
        DataError: telling which of the two.
    """
    if (run.path / MANIFEST).is_file():
        raise DataError("already prepared; train with it, or prepare another folder", path=run.path)
    if not (run.path / SOURCES).is_file():
        raise DataError("not a folder that prepare began", path=run.path)
