"""Make a data set folder from raw files: the function behind `mmtk recommend prepare`.

FOLDER/
  config.yaml command.txt env.json run.log      settings, command line and machine
  NAME.inter u_id_mapping.csv i_id_mapping.csv  interactions with split labels; ids of the shop
  items.jsonl                                   id, title, text and picture of each item
  text_feat.npy image_feat.npy                  features, (items, width)
  manifest.json                                 counts, hashes, encoders; written last
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmtoolkit.core.device import resolve_device
from mmtoolkit.core.errors import DataError, UsageError
from mmtoolkit.core.logging import logger
from mmtoolkit.core.run import RunDirectory, write_atomic
from mmtoolkit.recommend.prepare.config import PrepareSettings
from mmtoolkit.recommend.prepare.encode import encode_items
from mmtoolkit.recommend.prepare.encoders import Encoder, Kind, load_encoder, locate
from mmtoolkit.recommend.prepare.gather import Material, gather, modalities
from mmtoolkit.recommend.prepare.manifest import MANIFEST
from mmtoolkit.recommend.prepare.write import save_array, sha256, write_manifest, write_tables

SOURCES = ".sources.json"
"""File of the hashes of raw files and encoders, which a resumed preparation compares."""


def prepare(settings: PrepareSettings, run: RunDirectory | Path, *, resume: bool = False) -> dict[str, Any]:
    """Make the data set folder, or continue an interrupted preparation, to the same bits.

    Args:
        settings: all settings.
        run: the folder. A new one is made after the raw files have been checked.
        resume: continue an interrupted preparation.

    Returns:
        The manifest.

    Raises:
        DataError: naming the file and line that cannot be used; nothing has been written then.
        UsageError: if an encoder does not exist, or raw files changed since the folder was begun.
    """
    run = RunDirectory.of(run, settings, resume=resume)
    if resume:
        check_unfinished(run)
    material = gather(settings)
    device = resolve_device(settings.device)
    encoders = {kind: load_encoder(e.encoder, kind, device) for kind, e in modalities(settings).items()}
    sources = _sources(settings, material, encoders)
    _check_sources(run.path / SOURCES, sources)
    run.start()
    with run.logging():
        write_atomic(run.path / SOURCES, json.dumps(sources, indent=2) + "\n")
        write_tables(run.path, material)
        encoded = {kind: _encode(run.path, kind, material, encoders[kind], settings) for kind in encoders}
        manifest = write_manifest(run.path, settings, material, sources, encoded)
        for kind in encoded:  # only an interrupted preparation needs the partial files
            _partial(run.path, kind).unlink()
        return manifest


def describe(settings: PrepareSettings) -> dict[str, int | str]:
    """Check the raw files and find the encoders, without encoding, and return the sizes.

    Raises:
        DataError: if a file cannot be used.
        UsageError: if an encoder does not exist.
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


def _sources(
    settings: PrepareSettings, material: Material, encoders: Mapping[Kind, Encoder]
) -> dict[str, Any]:
    """Hash everything that determines the bits of the folder."""
    digest = hashlib.sha256()
    for picture in material.pictures:
        digest.update(f"{picture.name} {picture.stat().st_size}\n".encode() if picture else b"\n")
    files = {"interactions": settings.interactions, "items": settings.items}
    return {
        "files": {
            role: {"name": path.name, "bytes": path.stat().st_size, "sha256": sha256(path)}
            for role, path in files.items()
            if path is not None
        },
        "pictures": {"names_and_sizes_sha256": digest.hexdigest()} if settings.images else {},
        "encoders": {kind: {"name": e.name, "sha256": e.sha256} for kind, e in encoders.items()},
    }


def _check_sources(path: Path, sources: Mapping[str, Any]) -> None:
    """Refuse to continue with other raw files or encoders than the folder was begun with."""
    if path.is_file() and json.loads(path.read_text(encoding="utf-8")) != sources:
        raise UsageError(
            f"{path.parent}: raw files or encoders changed since this was begun; prepare a new folder"
        )


def _encode(
    folder: Path, kind: Kind, material: Material, encoder: Encoder, settings: PrepareSettings
) -> dict[str, Any]:
    """Encode one modality, write its features, and return its part of the manifest."""
    chosen = modalities(settings)[kind]
    features = encode_items(encoder, kind, material.inputs(kind), _partial(folder, kind), chosen)
    save_array(folder / f"{kind}_feat.npy", features.rows)
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


def check_unfinished(run: RunDirectory) -> None:
    """Refuse to continue a folder that is complete or that `prepare` did not begin.

    Raises:
        DataError: saying which of the two.
    """
    if (run.path / MANIFEST).is_file():
        raise DataError("already prepared; train with it, or prepare another folder", path=run.path)
    if not (run.path / SOURCES).is_file():
        raise DataError("not a folder that prepare began", path=run.path)
