"""How a data set folder was prepared, for files with new items and users that come later."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmtoolkit.core.config import config_layer, resolve
from mmtoolkit.core.errors import UsageError
from mmtoolkit.recommend.prepare.config import ColumnSettings, PrepareSettings

MANIFEST = "manifest.json"
"""File of counts, hashes and encoders; the last one that `prepare` writes."""


def read_preparation(folder: Path | None) -> tuple[PrepareSettings, dict[str, Any]]:
    """Read the settings and the manifest of a prepared folder.

    Raises:
        UsageError: if `prepare` did not make the folder.
    """
    path = Path() if folder is None else folder / MANIFEST
    if not path.is_file():
        raise UsageError(
            f"{folder}: not made by 'mmtk recommend prepare', so its encoders are unknown; "
            "encode the new items yourself and give them with `features` NAME=FILE"
        )
    layer = config_layer("recommend", str(path.with_name("config.yaml")))
    return resolve(PrepareSettings, [layer]).settings, json.loads(path.read_text(encoding="utf-8"))


def header_options(columns: ColumnSettings, names: Mapping[str, str]) -> dict[str, str]:
    """Describe, by role, how the header of a later file must name its columns.

    Commands for new items and users have no options for columns, so messages point to the header.

    Args:
        columns: columns that were named when the data set was prepared.
        names: by role, the field of `columns`.
    """
    return {
        role: "so named when the data set was prepared; name it so in this file's header"
        if getattr(columns, name)
        else f"'{'title' if role == 'text' else role}' in the header"
        for role, name in names.items()
    }
