"""Fingerprints, and safetensors files and JSON objects that may have been damaged or written by others."""

import hashlib
import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from mmtoolkit.core.errors import CheckpointError


def fingerprint(values: object) -> str:
    """Return sixteen characters that identify values by their JSON text."""
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:16]


def open_tensors(path: Path) -> Any:
    """Open a safetensors file to read parts of it.

    Raises:
        CheckpointError: if it cannot be read.
    """
    try:
        return safe_open(path, "pt")
    except (OSError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{path}: not a safetensors file, or damaged: {reason}") from None


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors of a safetensors file by name, and the strings kept with them.

    Raises:
        CheckpointError: if it cannot be read.
    """
    with open_tensors(path) as stream:
        return {key: stream.get_tensor(key) for key in stream.keys()}, stream.metadata() or {}  # noqa: SIM118


def read_metadata(path: Path) -> dict[str, str]:
    """Return the strings kept in a safetensors file; errors as of :func:`open_tensors`."""
    with open_tensors(path) as stream:
        return stream.metadata() or {}


def read_json(text: str, source: str | Path) -> dict[str, Any]:
    """Return a JSON object.

    Args:
        text: to read.
        source: where the text comes from, for the error.

    Raises:
        CheckpointError: if it is no JSON object.
    """
    try:
        values = json.loads(text)
    except ValueError as error:
        raise CheckpointError(f"{source}: damaged: {error}") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{source}: damaged: not a JSON object")
    return values


def read_json_file(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file; errors as of :func:`read_json`."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from None
    return read_json(text, path)
