"""Load single parts of a checkpoint from a folder, a single file or the hub."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mmtoolkit.core.errors import CheckpointError, ConfigError
from mmtoolkit.distill.config import SHAPES
from mmtoolkit.distill.models.families.family import FAMILIES, Family

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_SINGLE = (".safetensors", ".ckpt")


@dataclass(frozen=True)
class Source:
    """A checkpoint and the way to read it.

    Attributes:
        base: folder of a pipeline, a single file, or a hub id.
        family: its family.
        layout: folder or hub id with the configuration and tokenizers of a single file.
    """

    base: str
    family: Family
    layout: str | None = None

    @classmethod
    def open(cls, base: str, family: str, layout: str | None = None) -> "Source":
        """Check that a checkpoint exists and is of the given family; only its configuration is read.

        Raises:
            CheckpointError: if it does not exist.
            ConfigError: if none is named, or it is of another family.
        """
        quiet_libraries()
        source = cls(base, FAMILIES[family], layout)
        if base == SHAPES:
            raise ConfigError(
                f"model.base: name the {family} checkpoint: a folder, a single file or a hub id"
            )
        if source.single_file:
            return source
        if not Path(base).exists() and (not _HUB_ID.fullmatch(base) or base.endswith(_SINGLE)):
            raise CheckpointError(f"model.base: {base}: no such folder or file, and not a hub id")
        found = source.pipeline_config()["_class_name"]
        if found != source.family.pipeline:
            matching = [one.name for one in FAMILIES.values() if one.pipeline == found]
            fix = f"set model.family={matching[0]}" if matching else f"it must be one of {list(FAMILIES)}"
            raise ConfigError(f"model.family: {family}, but {base} holds a {found}; {fix}")
        return source

    @property
    def single_file(self) -> bool:
        """Whether the checkpoint is a single file."""
        return Path(self.base).is_file()

    @property
    def _configured(self) -> str:
        """Folder or hub id of the configuration: the checkpoint itself, or a single file's layout."""
        return (self.layout or self.family.layout) if self.single_file else self.base

    def pipeline_config(self) -> dict[str, Any]:
        """Return the pipeline's `model_index.json`.

        Raises:
            CheckpointError: if it cannot be read.
        """
        import diffusers

        with self._explained("model_index.json"):
            return dict(diffusers.DiffusionPipeline.load_config(self._configured, **self._offline()))

    def config(self, part: str) -> dict[str, Any]:
        """Return the configuration of one part, such as `unet`, `vae` or `scheduler`.

        Raises:
            CheckpointError: if it cannot be read.
        """
        import diffusers

        kind = diffusers.DDPMScheduler if part == "scheduler" else diffusers.AutoencoderKL
        with self._explained(part):
            return dict(kind.load_config(self._configured, subfolder=part, **self._offline()))

    def network(self, dtype: torch.dtype) -> nn.Module:
        """Load the denoiser, frozen, in the given precision.

        Raises:
            CheckpointError: if it cannot be loaded.
        """
        network: nn.Module = self._load(self.family.network, self.family.part, dtype)
        return network

    def empty_network(self) -> nn.Module:
        """Build the denoiser on the meta device: shapes without weights, to count with."""
        import diffusers

        kind = getattr(diffusers, self.family.network)
        with torch.device("meta"):
            network: nn.Module = kind.from_config(self.config(self.family.part))
        return network.requires_grad_(False)

    def vae(self) -> Any:
        """Load the autoencoder, frozen, in float32: SDXL's overflows in half precision."""
        return self._load("AutoencoderKL", "vae", torch.float32)

    def _load(self, kind: str, part: str, dtype: torch.dtype) -> Any:
        import diffusers

        loader = getattr(diffusers, kind)
        with self._explained(part):
            if self.single_file:
                loaded = loader.from_single_file(
                    self.base, config=self._configured, subfolder=part, **_dtype(dtype), **self._offline()
                )
            else:
                loaded = loader.from_pretrained(self.base, subfolder=part, **_dtype(dtype))
        return loaded.requires_grad_(False)

    def text_pipeline(self, dtype: torch.dtype) -> Any:
        """Load the pipeline with its text encoders only."""
        return self._pipeline(dtype, {self.family.part: None, "vae": None} | self._no_safety())

    def pipeline(self, network: nn.Module) -> Any:
        """Load the whole pipeline around an existing network."""
        dtype = next(network.parameters()).dtype
        return self._pipeline(dtype, {self.family.part: network} | self._no_safety())

    def _no_safety(self) -> dict[str, Any]:
        if self.family.name != "sd15":
            return {}
        return {"safety_checker": None, "requires_safety_checker": False}

    def _pipeline(self, dtype: torch.dtype, parts: dict[str, Any]) -> Any:
        import diffusers

        kind = getattr(diffusers, self.family.pipeline)
        with self._explained("text encoders"):
            if self.single_file:
                return kind.from_single_file(
                    self.base, config=self._configured, **_dtype(dtype), **parts, **self._offline()
                )
            return kind.from_pretrained(self.base, **_dtype(dtype), **parts)

    def _offline(self) -> dict[str, bool]:
        """Return the option that stops Diffusers from using the hub if the user did not name a hub id."""
        return {"local_files_only": self.single_file and self.layout is None}

    @contextmanager
    def _explained(self, part: str) -> Iterator[None]:
        """Convert the errors of loading to a CheckpointError of one line."""
        try:
            yield
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[0][:200]
            hint = (
                f"a single file holds no configuration; set model.layout to a folder or hub id that does, "
                f"such as {self.family.layout}"
                if self.single_file and self.layout is None
                else ""
            )
            message = f"{self.base}: cannot load {part} of {self.family.pipeline}: {reason}"
            raise CheckpointError(message, hint=hint) from error


def _dtype(dtype: torch.dtype) -> dict[str, torch.dtype]:
    """Return the precision under the argument name of the installed Diffusers version."""
    from diffusers.utils import deprecation_utils

    return {"dtype" if hasattr(deprecation_utils, "_resolve_dtype") else "torch_dtype": dtype}


def quiet_libraries() -> None:
    """Turn off the progress bars and warnings of Diffusers and Transformers; errors are still raised."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for library in (diffusers_logging, transformers_logging):
        library.disable_progress_bar()
        library.set_verbosity_error()
