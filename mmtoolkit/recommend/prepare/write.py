"""The files of a data set folder that `prepare` writes."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmtoolkit import __version__
from mmtoolkit.core.run import write_atomic
from mmtoolkit.recommend.data.dataset import FloatArray
from mmtoolkit.recommend.prepare.config import PrepareSettings
from mmtoolkit.recommend.prepare.encoders import Kind
from mmtoolkit.recommend.prepare.gather import Material
from mmtoolkit.recommend.prepare.manifest import MANIFEST


def write_tables(folder: Path, material: Material) -> None:
    """Write the interactions with their split labels, the ids of users and items, and items.jsonl."""
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
    """Remove a copy of the interactions named after an earlier name of the folder."""
    for other in sorted(inter.parent.glob("*.inter")):
        if other != inter and sha256(other) == sha256(inter):
            other.unlink()


def _plain(number: float) -> str:
    """Write whole numbers without a point."""
    return str(int(number)) if number == int(number) else repr(number)


def save_array(path: Path, array: FloatArray) -> None:
    """Write an array so that a kill leaves the old file or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("wb") as stream:
        np.save(stream, array)
    temporary.replace(path)


def write_manifest(
    folder: Path,
    settings: PrepareSettings,
    material: Material,
    sources: Mapping[str, Any],
    encoded: Mapping[Kind, Mapping[str, Any]],
) -> dict[str, Any]:
    """Write and return the manifest: counts, columns, settings, encoders and hashes."""
    written = [_inter_path(folder).name, "u_id_mapping.csv", "i_id_mapping.csv", "items.jsonl"]
    written += [f"{kind}_feat.npy" for kind in encoded]
    manifest = {
        "name": folder.absolute().name,
        "mmtoolkit": __version__,
        "counts": material.counts,
        "columns": {"interactions": material.table.columns, "items": material.catalogue.columns},
        "filter": settings.filter.model_dump(),
        "split": settings.split.model_dump(mode="json") | {"seed": settings.seed},
        "modalities": encoded,
        "sources": sources,
        "files": {name: {"sha256": sha256(folder / name)} for name in written},
    }
    write_atomic(folder / MANIFEST, json.dumps(manifest, indent=2) + "\n")
    return manifest


def sha256(path: Path) -> str:
    """Hash a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
