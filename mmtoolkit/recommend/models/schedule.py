"""The noise schedule of the diffusion."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from mmtoolkit.recommend.config import DiffusionSettings


@dataclass(frozen=True)
class Schedule:
    """Linear-variance noise schedule (Wang et al. 2023, DiffRec); every tensor is `(steps,)`.

    Attributes:
        signal: sqrt(abar_t), the factor on x_0.
        noise: sqrt(1 - abar_t), the factor on the noise.
        loss_weight: SNR(t - 1) - SNR(t), and 1 at t = 0.
        posterior_clean: factor on x_0 in the mean of q(x_{t-1} | x_t, x_0) (Ho et al. 2020, eq. 7).
        posterior_noisy: factor on x_t in that mean.
    """

    signal: Tensor
    noise: Tensor
    loss_weight: Tensor
    posterior_clean: Tensor
    posterior_noisy: Tensor

    @classmethod
    def from_settings(cls, settings: DiffusionSettings, device: torch.device) -> Self:
        """Compute the schedule in float64 and store it in float32."""
        variances = settings.noise_scale * torch.linspace(
            settings.noise_min, settings.noise_max, settings.steps, dtype=torch.float64
        )
        kept = 1 - variances
        before = torch.cat([kept.new_ones(1), kept[:-1]])
        betas = (1 - kept / before).clamp(max=0.999)
        abar = (1 - betas).cumprod(0)
        abar_before = torch.cat([abar.new_ones(1), abar[:-1]])
        snr = abar / (1 - abar)
        # the network predicts x_0, so the terms of the variational bound weigh as the SNR falls per step
        parts = (
            abar.sqrt(),
            (1 - abar).sqrt(),
            torch.cat([snr.new_ones(1), snr[:-1] - snr[1:]]),
            betas * abar_before.sqrt() / (1 - abar),
            (1 - abar_before) * (1 - betas).sqrt() / (1 - abar),
        )
        return cls(*(part.float().to(device) for part in parts))
