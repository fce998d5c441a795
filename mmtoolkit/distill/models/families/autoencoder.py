"""The autoencoder of a latent family, on the device only while it is used."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from mmtoolkit.distill.models.families.source import Source


class Autoencoder:
    """Converts pictures to latents and back, with the denoiser's scale and shift.

    Attributes:
        shape: shape of one latent, `(channels, height, width)`.
    """

    def __init__(self, source: Source, size: int) -> None:
        """Read the configuration; the weights are loaded at first use.

        Args:
            source: the checkpoint.
            size: side of the pictures in pixels.
        """
        self.source = source
        config = source.config("vae")
        side = size // 2 ** (len(config["block_out_channels"]) - 1)
        self.shape = (int(config["latent_channels"]), side, side)
        self.scale = float(config.get("scaling_factor") or 0.18215)
        self.shift = float(config.get("shift_factor") or 0.0)
        self._vae: Any = None

    @torch.no_grad()
    def encode(self, pictures: Tensor, generator: torch.Generator) -> Tensor:
        """Sample latents of pictures from the posterior.

        Args:
            pictures: `(rows, 3, height, width)` in [-1, 1].
            generator: source of the posterior's noise, on the CPU.

        Returns:
            (posterior sample - shift) * scale, `(rows, *shape)`.
        """
        with self._on_device(pictures.device) as vae:
            posterior = vae.encode(pictures.float()).latent_dist
        # drawn on the CPU, so that the noise is the same on every device
        noise = torch.randn(posterior.mean.shape, generator=generator).to(posterior.mean)
        latents: Tensor = posterior.mean + posterior.std * noise
        return (latents - self.shift) * self.scale

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Decode latents `(rows, *shape)` to pictures `(rows, 3, height, width)` in [-1, 1]."""
        with self._on_device(latents.device) as vae:
            rows = (latents.float() / self.scale + self.shift).split(1)  # one at a time to save memory
            return torch.cat([vae.decode(row, return_dict=False)[0] for row in rows]).clamp(-1, 1)

    @contextmanager
    def _on_device(self, device: torch.device) -> Iterator[Any]:
        """Move the weights to the device inside a `with` block, and back to the CPU afterwards."""
        if self._vae is None:
            self._vae = self.source.vae()
        try:
            yield self._vae.to(device)
        finally:
            self._vae.to("cpu")
