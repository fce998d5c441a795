"""Load parts of a checkpoint, one at a time: from a folder, a single file or the hub."""

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
    """A checkpoint and how to read it.

    Attributes:
        base: folder of a pipeline, a single file, or a hub id.
        family: what it is.
        layout: for a single file, the folder or hub id whose configuration and tokenizers it uses.
    """

    base: str
    family: Family
    layout: str | None = None

    @classmethod
    def open(cls, base: str, family: str, layout: str | None = None) -> "Source":
        """Check that a checkpoint is there and of the family that the settings say; little is read.

        Raises:
            CheckpointError: if it is not there.
            ConfigError: if it is of another family.
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
            known = [one.name for one in FAMILIES.values() if one.pipeline == found]
            mend = f"use --set model.family={known[0]}" if known else f"it must be one of {list(FAMILIES)}"
            raise ConfigError(f"model.family: {family}, but {base} holds a {found}; {mend}")
        return source

    @property
    def single_file(self) -> bool:
        """Tell whether everything lies in one file."""
        return Path(self.base).is_file()

    @property
    def _configured(self) -> str:
        """Where the configuration lies: the checkpoint itself, or a single file's layout."""
        return (self.layout or self.family.layout) if self.single_file else self.base

    def pipeline_config(self) -> dict[str, Any]:
        """Read what the pipeline is made of."""
        import diffusers

        with self._explained("model_index.json"):
            return dict(diffusers.DiffusionPipeline.load_config(self._configured, **self._offline()))

    def config(self, part: str) -> dict[str, Any]:
        """Read the configuration of one part, as `unet`, `vae` or `scheduler`."""
        import diffusers

        kind = diffusers.DDPMScheduler if part == "scheduler" else diffusers.AutoencoderKL
        with self._explained(part):
            return dict(kind.load_config(self._configured, subfolder=part, **self._offline()))

    def network(self, dtype: torch.dtype) -> nn.Module:
        """Load the denoiser, frozen."""
        network: nn.Module = self._load(self.family.network, self.family.part, dtype)
        return network

    def empty_network(self) -> nn.Module:
        """Build the denoiser without weights, on the meta device, to count with."""
        import diffusers

        kind = getattr(diffusers, self.family.network)
        with torch.device("meta"):
            network: nn.Module = kind.from_config(self.config(self.family.part))
        return network.requires_grad_(False)

    def vae(self) -> Any:
        """Load the autoencoder, frozen, in float32: in half precision SDXL's overflows."""
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
        """Load the pipeline with its text encoders alone."""
        return self._pipeline(dtype, {self.family.part: None, "vae": None} | self._no_safety())

    def pipeline(self, network: nn.Module) -> Any:
        """Load the whole pipeline around a network that is there already."""
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
        """Keep to files at hand where the user named no hub id."""
        return {"local_files_only": self.single_file and self.layout is None}

    @contextmanager
    def _explained(self, part: str) -> Iterator[None]:
        """Turn what loading may raise into one line."""
        try:
            yield
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[0][:200]
            hint = (
                f"a single file holds no configuration; name a folder or hub id that does with "
                f"--set model.layout=..., as {self.family.layout}"
                if self.single_file and self.layout is None
                else ""
            )
            message = f"{self.base}: cannot load {part} of {self.family.pipeline}: {reason}"
            raise CheckpointError(message, hint=hint) from error


def _dtype(dtype: torch.dtype) -> dict[str, torch.dtype]:
    """Name the precision as this version of Diffusers does."""
    from diffusers.utils import deprecation_utils

    return {"dtype" if hasattr(deprecation_utils, "_resolve_dtype") else "torch_dtype": dtype}


def quiet_libraries() -> None:
    """Leave progress and remarks to this package; errors are still raised."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for library in (diffusers_logging, transformers_logging):
        library.disable_progress_bar()
        library.set_verbosity_error()
