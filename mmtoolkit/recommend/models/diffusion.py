"""Behaviour-conditioned graph diffusion in memory linear in the items.

Rows of the semantic graph S are samples x_0 in R^items. Encoder and decoder of CD-Net are linear, so
every noisy row is x_t = a S + H W_d^T + c b_d with two scalars and an `(items, hidden)` matrix H, and
all work happens in `hidden` dimensions. Noise enters through its encoding alone.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from typing import Self

import scipy.sparse as sp
import torch
from torch import Tensor
from torch.nn import functional as F

from mmtoolkit.recommend.config import DiffusionSettings
from mmtoolkit.recommend.data.dataset import IntArray
from mmtoolkit.recommend.graphs.sparse import SparseRows, bag
from mmtoolkit.recommend.models.losses import Reconstruction, product, with_gradients
from mmtoolkit.recommend.models.networks import CDNet
from mmtoolkit.recommend.models.search import RECALL_ROWS, largest_among, largest_entries, neighbourhood
from mmtoolkit.recommend.training.workers import ALONE, Workers

PARTS = 8
"""Parts of a batch while training, taken one after the other; as many processes can share it."""

DENOISED_ENTRIES = 2**21
"""Most entries of a block, `(rows, hidden)`, while denoising (8 MB in float32)."""


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
    semantic: sp.csr_array,
    behaviour: sp.csr_array,
    chosen: IntArray,
    settings: DiffusionSettings,
    workers: Workers = ALONE,
) -> Tensor:
    """Draw noise levels, noise and dropped conditions for a batch, and return its loss (step 3).

    The batch is taken in `PARTS` parts, forwards and backwards, so that hardly more than one part's mixtures
    are held at a time. Each part has draws of its own seed, so that several processes can share the parts
    and still compute what one would.

    Args:
        net: CD-Net in training mode.
        schedule: noise schedule.
        semantic: S, `(items, items)`.
        behaviour: C, `(items, items)`.
        chosen: rows of the batch, `(batch,)`.
        settings: how the conditions are dropped and how many noise vectors are drawn.
        workers: processes that share the rows.

    Returns:
        This process's part of the batch's mean loss.
    """
    batch, items, device = len(chosen), len(net.encoder), net.encoder.device
    steps = torch.randint(len(schedule.signal), (batch,))
    draws = batch if settings.condition_dropout_per == "row" else 1
    keep = (torch.rand(draws) >= settings.condition_dropout).float().expand(batch)
    vectors = torch.randn(settings.noise_vectors, items, device=device)
    parts = torch.arange(batch).split(-(-batch // PARTS))
    seeds = torch.randint(2**62, (len(parts),)).tolist()
    mine = range(workers.rank, len(parts), workers.count) or range(1)
    rows = torch.cat([parts[i] for i in mine])
    steps, keep = steps[rows].to(device), keep[rows].to(device)
    weight = schedule.loss_weight[steps] / (batch * items) * (workers.rank < len(parts))
    graphs = (semantic, behaviour) if keep.any() else (semantic,)
    inputs = [SparseRows(sp.csr_array(graph[chosen[rows.numpy()]]), device) for graph in graphs]
    stops = accumulate(len(parts[i]) for i in mine)
    places = [(seeds[i], slice(stop - len(parts[i]), stop)) for i, stop in zip(mine, stops, strict=True)]
    return _loss_by_parts(net, schedule, _Draws(inputs, steps, keep, weight, vectors, places))


@dataclass(frozen=True)
class _Draws:
    """What was drawn for the rows of a batch that a process computes.

    Attributes:
        inputs: clean rows and, unless all are dropped, their conditions, `(rows, items)` each.
        steps: noise levels, `(rows,)`.
        keep: 0 where the condition is dropped, else 1, `(rows,)`.
        weight: factors on the squared errors, `(rows,)`.
        vectors: Gaussian vectors that the noise is mixed of, `(vectors, items)`.
        places: seed and rows of each part.
    """

    inputs: list[SparseRows]
    steps: Tensor
    keep: Tensor
    weight: Tensor
    vectors: Tensor
    places: list[tuple[int, slice]]


def _loss_by_parts(net: CDNet, schedule: Schedule, drawn: _Draws) -> Tensor:
    """Go forwards and backwards a part at a time, and return the sum of the losses with its gradients."""
    hidden, device, inputs = net.encoder.shape[1], net.encoder.device, drawn.inputs
    # one slice and one cast for all parts, so that their gradients meet in one array
    mixing = net.mix.weight[:, : len(inputs) * hidden].T.to(net.dtype)
    times = net.time_part(torch.arange(len(schedule.signal), device=device))
    with torch.no_grad():
        decoding = Reconstruction(net.decoder, net.decoder_bias, inputs[0], drawn.weight, net.dtype)
        directions = product(drawn.vectors, net.encoder, net.dtype)
        grad_encoded = torch.empty(len(inputs), len(drawn.steps), hidden, device=device)
    leaves = [x.detach().requires_grad_() for x in (directions, net.encoder_bias, mixing, times)]
    totals = [torch.zeros_like(x) for x in leaves]

    def learn(seed: int, part: slice) -> Tensor:
        with torch.no_grad():
            encoded = torch.stack([rows.bag(net.encoder, part) for rows in inputs])
        encoded.requires_grad_()
        directions, bias, mixing, times = leaves
        steps, keep = drawn.steps[part], drawn.keep[part, None]
        with seeded(seed, device):
            noise = schedule.noise[steps, None] * mixed_noise(directions, len(steps))
            units = [net.unit(schedule.signal[steps, None] * encoded[0] + noise + bias)]
            units += [net.unit(condition + bias) * keep for condition in encoded[1:]]
        low = torch.cat([unit.to(net.dtype) for unit in units], dim=1)
        mixed = product(low, mixing, net.dtype) + F.embedding(steps, times)
        grad, *others = torch.autograd.grad(mixed, [encoded, *leaves], decoding.add(mixed.detach(), part))
        for total, own in zip(totals, others, strict=True):
            total.add_(own)
        return grad

    for seed, part in drawn.places:
        grad_encoded[:, part] = learn(seed, part)
    grad_directions, *others = totals
    grad_encoder = drawn.vectors.T @ grad_directions
    for i, rows in enumerate(inputs):
        rows.add_transposed(grad_encoder, grad_encoded[i])
    del grad_encoded
    gradients = (*decoding.gradients(), grad_encoder, *others)
    weights = (net.decoder, net.decoder_bias, net.encoder, net.encoder_bias, mixing, times)
    return with_gradients(decoding.loss, gradients, weights)


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Draw with a seed inside the context and go on outside as if nothing had been drawn."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


@dataclass(frozen=True)
class Reencoding:
    """What decoding and encoding again does in `hidden` dimensions; the same for all rows.

    Attributes:
        weight: G = W_d^T W_e, `(hidden, hidden)`.
        bias: b_d W_e, `(hidden,)`.
        row: A G with A the mixing of an encoded row, `(hidden, hidden)`.
    """

    weight: Tensor
    bias: Tensor
    row: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, net: CDNet) -> Self:
        """Multiply decoder, encoder and mixing of a net."""
        weight = product(net.decoder.T, net.encoder, net.dtype)
        return cls(weight, net.decoder_bias @ net.encoder, product(net.row_mixing, weight, net.dtype))


@torch.no_grad()
def denoise_rows(
    net: CDNet,
    schedule: Schedule,
    semantic: SparseRows,
    behaviour: SparseRows,
    guidance: float,
    again: Reencoding,
) -> Tensor:
    """Denoise some rows of the clean graph with classifier-free guidance (step 5).

    The guided prediction (1 + omega) x0(c) - omega x0(none) is one pass, since the mix is linear in the
    encodings: m = A enc(x_t) + (1 + omega) B enc(c) + time. Of x_t = a S + H W_d^T + c b_d no more is needed
    than its encoding, to which m adds m G + b_d W_e, so that a step is one product, with A G.

    Returns:
        m of the last step, `(rows, hidden)`; the last posterior mean is its prediction m W_d^T + b_d itself.
    """
    encoded = bag(net.encoder, semantic)
    guided = (1 + guidance) * net.condition_part(bag(net.encoder, behaviour) + net.encoder_bias)
    guided_again = product(guided, again.weight, net.dtype) + again.bias
    times = net.time_part(torch.arange(len(schedule.signal), device=encoded.device))
    times_again = times @ again.weight
    share, added = 1.0, torch.zeros_like(encoded)  # enc(x_t) = share enc(S) + added
    for step in range(len(schedule.signal) - 1, 0, -1):
        unit = net.unit(share * encoded + added + net.encoder_bias)
        predicted = product(unit, again.row, net.dtype) + guided_again + times_again[step]
        clean, old = float(schedule.posterior_clean[step]), float(schedule.posterior_noisy[step])
        share, added = old * share, clean * predicted + old * added
    return net.row_part(share * encoded + added + net.encoder_bias) + guided + times[0]


def denoised_lists(
    net: CDNet,
    schedule: Schedule,
    semantic: sp.csr_array,
    behaviour: sp.csr_array,
    guidance: float,
    k: int,
    *,
    candidates: bool = False,
) -> tuple[Tensor, Tensor, float]:
    """Denoise all rows and find the k largest entries of each, a block of rows at a time.

    Args:
        net: CD-Net in evaluation mode.
        schedule: noise schedule.
        semantic: S, `(items, items)`.
        behaviour: C, `(items, items)`.
        guidance: omega.
        k: entries to keep of a row.
        candidates: look only among neighbours of an item and their neighbours, see
            :func:`largest_among`, whose cost grows with the items and not with their square.

    Returns:
        Columns and values, both `(items, k)`, the largest first, and the share of the true columns that
        was found, measured on `RECALL_ROWS` rows (1 when all items are searched).
    """
    items, width = net.decoder.shape
    again, device = Reencoding.of(net), net.decoder.device
    linked = neighbourhood(semantic, behaviour) if candidates else None
    low_decoder = net.decoder if candidates else net.decoder.to(net.dtype)
    step, apart = max(1, DENOISED_ENTRIES // width), max(1, items // RECALL_ROWS)
    best, columns, sampled = [], [], []
    for start in range(0, items, step):
        block = slice(start, start + step)
        clean, condition = (SparseRows(sp.csr_array(graph[block]), device) for graph in (semantic, behaviour))
        hidden = denoise_rows(net, schedule, clean, condition, guidance, again)
        if linked is None:
            values, places = largest_entries(net, hidden, k, low_decoder)
        else:
            values, places = largest_among(net, hidden, sp.csr_array(linked[block] @ linked), k)
            sampled.append(hidden[-start % apart :: apart].clone())  # a view would keep the block
        best.append(values)
        columns.append(places)
    lists, recall = torch.cat(columns), 1.0
    if sampled:
        _, exact = largest_entries(net, torch.cat(sampled), k, net.decoder)
        recall = float((exact[:, :, None] == lists[::apart, None]).any(dim=2).float().mean())
    return lists, torch.cat(best), recall
