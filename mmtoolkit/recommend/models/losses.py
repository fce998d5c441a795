"""The three losses, each computed without a users x items or items x items array."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional as F

from mmtoolkit.recommend.graphs.sparse import SparseRows

CONTRAST_BLOCK = 2**21
"""Entries of a block of similarities: 8 MB, which fits into the cache."""

PANEL = 256
"""Columns of a symmetric matrix that are computed at once."""


def product(a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    """Multiply two float32 matrices in `dtype` and return float32."""
    return (a.to(dtype) @ b.to(dtype)).float()


def add_half(result: Tensor, a: Tensor, b: Tensor) -> None:
    """Add a^T b, known to be symmetric, to the lower half of a matrix (and to the blocks on its diagonal).

    Args:
        result: `(width, width)`, float32; :func:`mirror` fills its upper half once all has been added.
        a: `(rows, width)`.
        b: `(rows, width)`, for example a with its rows weighted.
    """
    for start in range(0, len(result), PANEL):
        panel = slice(start, start + PANEL)
        result[start:, panel] += a[:, start:].T @ b[:, panel]


def mirror(result: Tensor) -> Tensor:
    """Copy the lower half of a square matrix to its upper half, and return it."""
    for start in range(0, len(result), PANEL):
        panel = slice(start, start + PANEL)
        result[panel, panel.stop :] = result[panel.stop :, panel].T
    return result


def bpr_loss(users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
    """Bayesian personalised ranking (Rendle et al. 2009, BPR-OPT), mean over the batch.

    Args:
        users: representations, `(batch, width)`.
        positives: of an item that each user has, `(batch, width)`.
        negatives: of an item that the user does not have, `(batch, width)`.
    """
    return -F.logsigmoid((users * (positives - negatives)).sum(dim=1)).mean()


def embedding_penalty(*representations: Tensor) -> Tensor:
    """Squared norm of the representations in use, as the mean over the batch."""
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
        in_batch: contrast only with the items of the batch, not with all items.

    Returns:
        Mean over `chosen` of -log softmax_j(cos(queries_i, keys_j) / tau) at j = i.
    """
    items, counts = chosen.unique(return_counts=True)
    q = F.normalize(F.embedding(items, queries), dim=1)
    k = F.normalize(F.embedding(items, keys) if in_batch else keys, dim=1)
    own = torch.arange(len(items), device=items.device) if in_batch else items
    return _weighted_info_nce(q, k, own, counts / len(chosen), temperature)


def _weighted_info_nce(q: Tensor, k: Tensor, target: Tensor, weight: Tensor, temperature: float) -> Tensor:
    """Weighted InfoNCE whose loss and gradients come from one visit to each block of similarities."""
    with torch.no_grad():
        grad_q, grad_k = torch.empty_like(q), torch.zeros_like(k)
        loss, scaled = q.new_zeros(()), q / temperature
        step = max(1, CONTRAST_BLOCK // len(k))
        buffer = q.new_empty(min(step, len(q)), len(k))  # new memory in each block would cost page faults
        for start in range(0, len(q), step):
            rows = slice(start, start + step)
            part, own = q[rows], target[rows]
            share = torch.mm(scaled[rows], k.T, out=buffer[: len(part)])
            logit = share.gather(1, own[:, None]).squeeze(1)
            # softmax in place: subtract the largest for stability; the sum then normalises loss and gradients
            largest = share.amax(dim=1)
            total = share.sub_(largest[:, None]).exp_().sum(dim=1)
            loss += (weight[rows] * (total.log() + largest - logit)).sum()
            pull = (weight[rows] / temperature)[:, None]
            push = pull / total[:, None]
            grad_q[rows] = push * (share @ k) - pull * k[own]
            grad_k.addmm_(share.T, push * part)
            grad_k.index_add_(0, own, -pull * part)
    return with_gradients(loss, (grad_q, grad_k), (q, k))


def with_gradients(loss: Tensor, gradients: Sequence[Tensor], inputs: Sequence[Tensor]) -> Tensor:
    """Return a loss whose gradients have been computed with it, ready for `backward`.

    Gradients computed together with the loss save a second pass over the data. The backward pass passes
    their memory on, so it can run only once.
    """
    known: Tensor = _WithGradients.apply(loss, gradients, *inputs)
    return known


class _WithGradients(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, loss: Tensor, gradients: Sequence[Tensor], *_inputs: Tensor) -> Tensor:
        ctx.gradients = gradients  # type: ignore[attr-defined]
        return loss.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        gradients = ctx.gradients  # type: ignore[attr-defined]
        del ctx.gradients  # type: ignore[attr-defined]  # so that they are passed on and not copied
        return None, None, *(part.mul_(grad) for part in gradients)


class Reconstruction:
    """Weighted squared error of decoded rows against sparse targets, a part of a batch at a time (step 3).

    This is the sum over i of w_i sum_j (S_ij - (m_i W_d^T + b_d)_j)^2, expanded so that no `(batch, items)`
    prediction is made: with A = sum_i w_i m_i m_i^T and G = W_d^T W_d the squared prediction is tr(A G) plus
    terms in W_d^T b_d, and the other terms only need the non-zeros of S. m is the input of CD-Net's decoder.

    Attributes:
        loss: of the parts added so far.
    """

    @torch.no_grad()
    def __init__(
        self, decoder: Tensor, bias: Tensor, rows: SparseRows, weight: Tensor, dtype: torch.dtype
    ) -> None:
        """Multiply the decoder with itself.

        Args:
            decoder: W_d, `(items, hidden)`.
            bias: b_d, `(items,)`.
            rows: the clean rows S_i, sparse `(batch, items)`.
            weight: w, `(batch,)`.
            dtype: precision of the large products.
        """
        self.decoder, self.bias, self.rows, self.weight, self.dtype = decoder, bias, rows, weight, dtype
        width, low = decoder.shape[1], decoder.to(dtype)
        self.gram, self.outer = (decoder.new_zeros(width, width) for _ in range(2))
        add_half(self.gram, low, low)
        mirror(self.gram)
        self.cross = decoder.T @ bias
        self.weighted = decoder.new_empty(len(weight), width)
        targets = rows.squared_norm() - 2 * rows.times(bias) + bias.dot(bias)
        self.loss = weight.dot(targets)

    @torch.no_grad()
    def add(self, mixed: Tensor, part: slice) -> Tensor:
        """Add some rows m, `(rows, hidden)`, to the loss and return its gradient in them."""
        weighted = torch.mul(self.weight[part, None], mixed, out=self.weighted[part])
        low = weighted.to(self.dtype)
        add_half(self.outer, low, mixed.to(self.dtype))
        grad = product(
            low, self.gram, self.dtype
        )  # w m G: half the gradient, and with m the squared prediction
        target = self.rows.bag(self.decoder, part).sub_(self.cross)
        self.loss += torch.vdot(mixed.flatten(), grad.flatten())
        self.loss -= 2 * torch.vdot(weighted.flatten(), target.flatten())
        return grad.sub_(target.mul_(self.weight[part, None])).mul_(2)

    @torch.no_grad()
    def gradients(self) -> tuple[Tensor, Tensor]:
        """Return the loss's gradients in the decoder and its bias."""
        push, total = self.weighted.sum(dim=0), self.weight.sum()
        decoder = product(self.decoder.to(self.dtype), mirror(self.outer), self.dtype).addr_(self.bias, push)
        self.rows.add_transposed(decoder, self.weighted, -1)
        bias = total * self.bias + self.decoder @ push - self.rows.transposed_times(self.weight)
        return decoder.mul_(2), bias.mul_(2)
