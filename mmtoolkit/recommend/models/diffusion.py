"""Behaviour-conditioned graph diffusion in memory linear in the items.

The rows of the semantic graph S are samples x_0 in R^items. The encoder and the decoder of CD-Net are
linear, so every noisy row is x_t = a S + H W_d^T + c b_d with two scalars a, c and an `(items, hidden)`
matrix H, and all computation happens in `hidden` dimensions. Of the noise only the encoding is needed.
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
from mmtoolkit.recommend.models.schedule import Schedule
from mmtoolkit.recommend.models.search import RECALL_ROWS, largest_among, largest_entries, neighbourhood
from mmtoolkit.recommend.training.workers import ALONE, Workers

PARTS = 8
"""Parts of a training batch, computed one after the other; up to as many processes can share a batch."""

DENOISED_ENTRIES = 2**21
"""Largest number of entries of a block, `(rows, hidden)`, in denoising (8 MB in float32)."""


def mixed_noise(directions: Tensor, batch: int) -> Tensor:
    """Combine projected Gaussian vectors E W_e, `(vectors, hidden)`, into one for each row.

    Every row gets c E W_e with c a random unit vector. Given any c, c E is exactly N(0, I), so each row's
    noise has the right distribution. Rows depend on one another, which does not change the expected loss
    and gradient.
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

    Each of `PARTS` parts of the batch goes forwards and backwards before the next, so that memory holds
    hardly more than the activations of one part. Each part draws with its own seed, so that several processes
    can share the parts and compute the same as one process.

    Args:
        net: CD-Net in training mode.
        schedule: noise schedule.
        semantic: S, `(items, items)`.
        behaviour: C, `(items, items)`.
        chosen: rows of the batch, `(batch,)`.
        settings: dropout of the conditions, and the number of noise vectors.
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
    own_parts = [(seeds[i], slice(stop - len(parts[i]), stop)) for i, stop in zip(mine, stops, strict=True)]
    return _loss_by_parts(net, schedule, _Draws(inputs, steps, keep, weight, vectors, own_parts))


@dataclass(frozen=True)
class _Draws:
    """The random draws for the rows of a batch that a process computes.

    Attributes:
        inputs: clean rows and, unless all conditions are dropped, the conditions, `(rows, items)` each.
        steps: noise levels, `(rows,)`.
        keep: 0 if the condition is dropped, else 1, `(rows,)`.
        weight: factors on the squared errors, `(rows,)`.
        vectors: Gaussian vectors that are mixed to noise, `(vectors, items)`.
        parts: seed and rows of each part.
    """

    inputs: list[SparseRows]
    steps: Tensor
    keep: Tensor
    weight: Tensor
    vectors: Tensor
    parts: list[tuple[int, slice]]


def _loss_by_parts(net: CDNet, schedule: Schedule, drawn: _Draws) -> Tensor:
    """Run each part forwards and backwards, and return the sum of the losses with its gradients."""
    hidden, device, inputs = net.encoder.shape[1], net.encoder.device, drawn.inputs
    # one slice and one cast for all parts, so that one array collects their gradients
    mixing = net.mix.weight[:, : len(inputs) * hidden].T.to(net.dtype)
    times = net.time_part(torch.arange(len(schedule.signal), device=device))
    with torch.no_grad():
        decoding = Reconstruction(net.decoder, net.decoder_bias, inputs[0], drawn.weight, net.dtype)
        directions = product(drawn.vectors, net.encoder, net.dtype)
        grad_encoded = torch.empty(len(inputs), len(drawn.steps), hidden, device=device)
    # autograd ends at these leaves: their gradients are summed over the parts, and the gradient of the
    # encoder, the largest array, is computed once, from the sums
    leaves = [x.detach().requires_grad_() for x in (directions, net.encoder_bias, mixing, times)]
    totals = [torch.zeros_like(x) for x in leaves]

    def run_part(seed: int, part: slice) -> Tensor:
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

    for seed, part in drawn.parts:
        grad_encoded[:, part] = run_part(seed, part)
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
    """Draw with a seed inside the context, without changing the random numbers outside."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


@dataclass(frozen=True)
class Reencoding:
    """Decoding followed by encoding, as products in `hidden` dimensions; the same for all rows.

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
    reencoding: Reencoding,
) -> Tensor:
    """Denoise some rows of the clean graph with classifier-free guidance (step 5).

    The guided prediction (1 + omega) x0(c) - omega x0(none) needs one pass, since the mixing layer is linear
    in the encodings: m = A enc(x_t) + (1 + omega) B enc(c) + time. Of x_t = a S + H W_d^T + c b_d only the
    encoding is needed. A prediction m changes it by m G + b_d W_e, so that a step is one product, with A G.

    Returns:
        m of the last step, `(rows, hidden)`; the posterior mean at t = 0 is the prediction m W_d^T + b_d.
    """
    encoded = bag(net.encoder, semantic)
    guided = (1 + guidance) * net.condition_part(bag(net.encoder, behaviour) + net.encoder_bias)
    guided_reencoded = product(guided, reencoding.weight, net.dtype) + reencoding.bias
    times = net.time_part(torch.arange(len(schedule.signal), device=encoded.device))
    times_reencoded = times @ reencoding.weight
    share, added = 1.0, torch.zeros_like(encoded)  # enc(x_t) = share enc(S) + added
    for step in range(len(schedule.signal) - 1, 0, -1):
        unit = net.unit(share * encoded + added + net.encoder_bias)
        predicted = product(unit, reencoding.row, net.dtype) + guided_reencoded + times_reencoded[step]
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
    search_candidates: bool = False,
) -> tuple[Tensor, Tensor, float]:
    """Denoise all rows and find the k largest entries of each, block by block.

    Args:
        net: CD-Net in evaluation mode.
        schedule: noise schedule.
        semantic: S, `(items, items)`.
        behaviour: C, `(items, items)`.
        guidance: omega.
        k: number of entries to keep of a row.
        search_candidates: search only among the neighbours of an item and their neighbours, see
            :func:`largest_among`; the cost is then linear in the items and not quadratic.

    Returns:
        Columns and values, both `(items, k)`, the largest first; and the share of the true columns that the
        search found, measured on `RECALL_ROWS` rows (1 if all items are searched).
    """
    items, width = net.decoder.shape
    reencoding, device = Reencoding.of(net), net.decoder.device
    linked = neighbourhood(semantic, behaviour) if search_candidates else None
    low_decoder = net.decoder if search_candidates else net.decoder.to(net.dtype)
    step, stride = max(1, DENOISED_ENTRIES // width), max(1, items // RECALL_ROWS)
    best, columns, sampled = [], [], []
    for start in range(0, items, step):
        block = slice(start, start + step)
        clean, condition = (SparseRows(sp.csr_array(graph[block]), device) for graph in (semantic, behaviour))
        hidden = denoise_rows(net, schedule, clean, condition, guidance, reencoding)
        if linked is None:
            values, positions = largest_entries(net, hidden, k, low_decoder)
        else:
            values, positions = largest_among(net, hidden, sp.csr_array(linked[block] @ linked), k)
            # every stride-th row of all items; a view instead of a copy would keep the whole block in memory
            sampled.append(hidden[-start % stride :: stride].clone())
        best.append(values)
        columns.append(positions)
    lists, recall = torch.cat(columns), 1.0
    if sampled:
        _, exact = largest_entries(net, torch.cat(sampled), k, net.decoder)
        recall = float((exact[:, :, None] == lists[::stride, None]).any(dim=2).float().mean())
    return lists, torch.cat(best), recall
