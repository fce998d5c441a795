"""Behaviour-conditioned graph diffusion in memory linear in the items.

Rows of the semantic graph S are samples x_0 in R^items. Encoder and decoder of CD-Net are linear, so
every noisy row is x_t = a S + H W_d^T + c b_d with two scalars and an `(items, hidden)` matrix H, and
all work happens in `hidden` dimensions. Noise enters through its encoding alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F

from mmtoolkit.recommend.config import DiffusionSettings
from mmtoolkit.recommend.graph import BLOCK_ENTRIES
from mmtoolkit.recommend.losses import product, reconstruction_loss
from mmtoolkit.recommend.model import CDNet
from mmtoolkit.recommend.sparse import SparseRows, bag


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
        """Compute the schedule in float64 and keep it in float32."""
        variances = settings.noise_scale * torch.linspace(
            settings.noise_min, settings.noise_max, settings.steps, dtype=torch.float64
        )
        kept = 1 - variances
        before = torch.cat([kept.new_ones(1), kept[:-1]])
        betas = (1 - kept / before).clamp(max=0.999)
        abar = (1 - betas).cumprod(0)
        abar_before = torch.cat([abar.new_ones(1), abar[:-1]])
        snr = abar / (1 - abar)
        parts = (
            abar.sqrt(),
            (1 - abar).sqrt(),
            torch.cat([snr.new_ones(1), snr[:-1] - snr[1:]]),
            betas * abar_before.sqrt() / (1 - abar),
            (1 - abar_before) * (1 - betas).sqrt() / (1 - abar),
        )
        return cls(*(part.float().to(device) for part in parts))


def mixed_noise(directions: Tensor, batch: int) -> Tensor:
    """Combine projected Gaussian vectors E W_e, `(vectors, hidden)`, into one for each row.

    Every row gets c E W_e with c a random unit vector. Given any c, c E is exactly N(0, I), so each
    row's noise has the right law; rows depend on one another, which leaves expected loss and gradient
    as they are.
    """
    mixture = torch.randn(batch, len(directions), device=directions.device)
    return F.normalize(mixture, dim=1) @ directions


def training_loss(
    net: CDNet,
    schedule: Schedule,
    clean: SparseRows,
    condition: SparseRows,
    settings: DiffusionSettings,
) -> Tensor:
    """Draw noise levels, noise and dropped conditions for a batch, and return its loss (step 3).

    Args:
        net: CD-Net in training mode.
        schedule: noise schedule.
        clean: rows of the semantic graph, sparse `(batch, items)`.
        condition: the same rows of the behavioural graph.
        settings: how the conditions are dropped and how many noise vectors are drawn.
    """
    encoded = bag(net.encoder, clean)
    batch, device = len(encoded), encoded.device
    steps = torch.randint(len(schedule.signal), (batch,), device=device)
    vectors = torch.randn(settings.noise_vectors, len(net.encoder), device=device)
    noise = mixed_noise(product(vectors, net.encoder, net.dtype), batch)
    noisy = schedule.signal[steps, None] * encoded + schedule.noise[steps, None] * noise
    draws = batch if settings.condition_dropout_per == "row" else 1
    keep = (torch.rand(draws, device=device) >= settings.condition_dropout).float().expand(batch)
    mixed = (
        net.row_part(noisy + net.encoder_bias)
        + net.condition_part(bag(net.encoder, condition) + net.encoder_bias, keep)
        + net.time_part(steps)
    )
    weight = schedule.loss_weight[steps]
    return reconstruction_loss(mixed, net.decoder, net.decoder_bias, clean, weight, net.dtype)


@dataclass(frozen=True)
class Rows:
    """All rows x_t = a S + H W_d^T + c b_d of the graph that is being denoised.

    Attributes:
        semantic: a, the share of S.
        hidden: H, `(items, hidden)`.
        bias: c, the share of b_d.
    """

    semantic: float
    hidden: Tensor
    bias: float


@torch.no_grad()
def denoise_steps(
    net: CDNet, schedule: Schedule, semantic: SparseRows, behaviour: SparseRows, guidance: float
) -> Iterator[Rows]:
    """Denoise all rows from the clean graph with classifier-free guidance, a step at a time (step 5).

    The guided prediction (1 + omega) x0(c) - omega x0(none) is one pass, since the mix is linear in the
    encodings: A enc(x_t) + (1 + omega) B enc(c) + time. After the last step `semantic` is 0 and `bias` 1.
    """
    encoded = bag(net.encoder, semantic)
    condition = bag(net.encoder, behaviour) + net.encoder_bias
    guided = (1 + guidance) * net.condition_part(condition)
    through = product(net.decoder.T, net.encoder, net.dtype)
    bias_encoded = net.decoder_bias @ net.encoder
    rows = Rows(1.0, torch.zeros_like(encoded), 0.0)
    for step in range(len(schedule.signal) - 1, -1, -1):
        noisy = rows.semantic * encoded + net.encoder_bias
        if rows.bias:
            noisy += product(rows.hidden, through, net.dtype) + rows.bias * bias_encoded
        time = net.time_part(torch.tensor([step], device=encoded.device))
        mixed = net.row_part(noisy) + guided + time
        clean, old = float(schedule.posterior_clean[step]), float(schedule.posterior_noisy[step])
        rows = Rows(old * rows.semantic, clean * mixed + old * rows.hidden, clean + old * rows.bias)
        yield rows


def denoise(
    net: CDNet, schedule: Schedule, semantic: SparseRows, behaviour: SparseRows, guidance: float
) -> Rows:
    """Run every step of :func:`denoise_steps` and return the denoised rows."""
    *_, rows = denoise_steps(net, schedule, semantic, behaviour, guidance)
    return rows


@torch.no_grad()
def largest_entries(net: CDNet, rows: Rows, k: int) -> tuple[Tensor, Tensor]:
    """Find the k largest entries of each denoised row, a block of rows at a time, in float32.

    Returns:
        Columns and values, both `(items, k)`, the largest first.
    """
    # The last posterior mean is the prediction itself, so nothing of S is left in the rows.
    assert (rows.semantic, rows.bias) == (0, 1)
    items = len(net.decoder)
    parts = []
    for start in range(0, items, step := max(1, BLOCK_ENTRIES // items)):
        block = torch.addmm(net.decoder_bias, rows.hidden[start : start + step], net.decoder.T)
        parts.append(block.topk(min(k, items), dim=1))
    return torch.cat([p.indices for p in parts]), torch.cat([p.values for p in parts])
