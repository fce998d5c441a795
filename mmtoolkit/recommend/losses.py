"""The three losses as pure functions, each computed without a users x items or items x items array."""

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional as F

from mmtoolkit.recommend.sparse import SparseRows, bag

CONTRAST_BLOCK = 2**21
"""Entries of a block of similarities: 8 MB, which stays in the cache."""

PANEL = 256
"""Columns of a symmetric matrix that are computed at once."""


def product(a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    """Multiply two float32 matrices in `dtype` and return float32."""
    return (a.to(dtype) @ b.to(dtype)).float()


def symmetric_product(a: Tensor, b: Tensor) -> Tensor:
    """Return a^T b in float32 where that is known to be symmetric, computing little more than half of it.

    Args:
        a: `(rows, width)`.
        b: `(rows, width)`, for example a with its rows weighted.
    """
    width = a.shape[1]
    result = torch.empty(width, width, device=a.device)
    for start in range(0, width, PANEL):
        panel = slice(start, start + PANEL)
        result[start:, panel] = a[:, start:].T @ b[:, panel]
        result[panel, panel.stop :] = result[panel.stop :, panel].T
    return result


def bpr_loss(users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
    """Bayesian personalised ranking (Rendle et al. 2009, BPR-OPT), mean over the batch.

    Args:
        users: representations, `(batch, width)`.
        positives: of an item that each user has, `(batch, width)`.
        negatives: of one that the user does not have, `(batch, width)`.
    """
    return -F.logsigmoid((users * (positives - negatives)).sum(dim=1)).mean()


def embedding_penalty(*representations: Tensor) -> Tensor:
    """Squared norm of the representations in use, a row's mean over the batch."""
    return sum((x.square().sum() for x in representations), torch.zeros(())) / len(representations[0])


def info_nce(
    queries: Tensor, keys: Tensor, chosen: Tensor, temperature: float, *, in_batch: bool = False
) -> Tensor:
    """Contrast rows of one view with rows of the other (InfoNCE, van den Oord et al. 2018).

    Args:
        queries: first view of the items, `(items, width)`.
        keys: second view of the items, `(items, width)`.
        chosen: items of the batch, `(batch,)`; repeated ones count repeatedly.
        temperature: tau.
        in_batch: contrast with the items of the batch alone, not with all.

    Returns:
        Mean over `chosen` of -log softmax_j(cos(queries_i, keys_j) / tau) at j = i.
    """
    items, counts = chosen.unique(return_counts=True)
    q = F.normalize(F.embedding(items, queries), dim=1)
    k = F.normalize(F.embedding(items, keys) if in_batch else keys, dim=1)
    own = torch.arange(len(items), device=items.device) if in_batch else items
    loss: Tensor = _InfoNCE.apply(q, k, own, counts / len(chosen), temperature)
    return loss


class _InfoNCE(torch.autograd.Function):
    """Weighted InfoNCE whose loss and gradient come from one visit to each block of similarities."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, q: Tensor, k: Tensor, target: Tensor, weight: Tensor, temperature: float
    ) -> Tensor:
        grad_q, grad_k = torch.empty_like(q), torch.zeros_like(k)
        loss, scaled = q.new_zeros(()), q / temperature
        step = max(1, CONTRAST_BLOCK // len(k))
        buffer = q.new_empty(min(step, len(q)), len(k))  # memory that is new in each block costs page faults
        for start in range(0, len(q), step):
            rows = slice(start, start + step)
            part, own = q[rows], target[rows]
            share = torch.mm(scaled[rows], k.T, out=buffer[: len(part)])
            logit = share.gather(1, own[:, None]).squeeze(1)
            largest = share.amax(dim=1)
            total = share.sub_(largest[:, None]).exp_().sum(dim=1)
            loss += (weight[rows] * (total.log() + largest - logit)).sum()
            pull = (weight[rows] / temperature)[:, None]
            push = pull / total[:, None]
            grad_q[rows] = push * (share @ k) - pull * k[own]
            grad_k.addmm_(share.T, push * part)
            grad_k.index_add_(0, own, -pull * part)
        ctx.save_for_backward(grad_q, grad_k)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        grad_q, grad_k = ctx.saved_tensors  # type: ignore[attr-defined]
        return grad * grad_q, grad * grad_k, None, None, None


def reconstruction_loss(
    mixed: Tensor,
    decoder: Tensor,
    bias: Tensor,
    rows: SparseRows,
    weight: Tensor,
    dtype: torch.dtype,
) -> Tensor:
    """Weighted squared error of the decoded rows against sparse targets (step 3 of the method).

    Equal to `mean_i(w_i * mean_j((S_ij - m_i W_d^T - b_d)_j ^ 2))`, but expanded, so that no
    `(batch, items)` prediction is made: with A = sum_i w_i m_i m_i^T and G = W_d^T W_d the squared
    prediction is tr(A G) plus terms in W_d^T b_d, and the rest lives on the non-zeros of S.

    Args:
        mixed: what CD-Net feeds its decoder, m, `(batch, hidden)`.
        decoder: W_d, `(items, hidden)`.
        bias: b_d, `(items,)`.
        rows: the clean rows S_i, sparse `(batch, items)`.
        weight: w, `(batch,)`.
        dtype: precision of the large products.
    """
    loss: Tensor = _Reconstruction.apply(mixed, decoder, bias, rows, weight, dtype)
    return loss


class _Reconstruction(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx,
        m: Tensor,
        decoder: Tensor,
        bias: Tensor,
        rows: SparseRows,
        weight: Tensor,
        dtype: torch.dtype,
    ) -> Tensor:
        w = weight / (len(m) * len(decoder))
        weighted = w[:, None] * m
        low_decoder, low_weighted = decoder.to(dtype), weighted.to(dtype)
        gram = symmetric_product(low_decoder, low_decoder)
        outer = symmetric_product(low_weighted, m.to(dtype))
        grad_m = product(low_weighted, gram, dtype)
        total, push = w.sum(), weighted.sum(dim=0)
        cross, target_bias = decoder.T @ bias, rows.times(bias)
        # sum_i w_i (|S_i|^2 - 2 S_i . p_i + |p_i|^2) with p_i = W_d m_i + b_d
        loss = (w * (rows.squared_norm() - 2 * target_bias)).sum() + total * bias.dot(bias)
        loss += torch.vdot(m.flatten(), grad_m.flatten()) + 2 * push.dot(cross)
        target = bag(decoder, rows)
        loss -= 2 * torch.vdot(weighted.flatten(), target.flatten())
        grad_m += target.sub_(cross).mul_(-w[:, None])
        grad_decoder = product(low_decoder, outer, dtype)
        grad_decoder.addr_(bias, push)
        rows.subtract_transposed(grad_decoder, weighted)
        grad_bias = total * bias + decoder @ push - rows.transposed_times(w)
        ctx.gradients = (grad_m, grad_decoder, grad_bias)  # type: ignore[attr-defined]
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        gradients, scale = ctx.gradients, 2 * grad  # type: ignore[attr-defined]
        del ctx.gradients  # type: ignore[attr-defined]  # so that they are handed on and not copied
        return *(part.mul_(scale) for part in gradients), None, None, None
