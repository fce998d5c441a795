"""The largest entries of denoised rows: among all items, or among neighbours and their neighbours."""

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from mmtoolkit.recommend.models.networks import CDNet

EXACT_UP_TO = 200_000
"""Items beyond which `graph.search: auto` looks among candidates."""

DECODED_ENTRIES = 2**23
"""Entries of a block of decoded rows, `(rows, items)` (32 MB): enough rows for a fast product."""

CANDIDATES = 3
"""Entries of a row that a search in low precision keeps for each that is wanted."""

RECALL_ROWS = 250
"""Rows on which a search among candidates is compared with all items."""


def neighbourhood(semantic: sp.csr_array, behaviour: sp.csr_array) -> sp.csr_array:
    """Return the pattern of both graphs together, every item linked with itself, `(items, items)`."""
    own = sp.eye_array(semantic.shape[0], dtype=np.float32, format="csr")
    linked = sp.csr_array(abs(semantic) + abs(behaviour) + own)
    linked.data[:] = 1
    return linked


@torch.no_grad()
def largest_entries(net: CDNet, hidden: Tensor, k: int, decoder: Tensor) -> tuple[Tensor, Tensor]:
    """Find the k largest entries of decoded rows.

    A decoder in lower precision than float32 finds `CANDIDATES` times k entries, whose values are then
    computed in float32.

    Args:
        net: CD-Net.
        hidden: the rows before decoding, `(rows, hidden)`.
        k: entries to keep of a row.
        decoder: W_d, `(items, hidden)`, in the precision to search in.

    Returns:
        Values in float32 and columns, both `(rows, k)`, the largest first.
    """
    items, dtype, parts = len(decoder), decoder.dtype, []
    k, rough, bias = min(k, items), dtype != torch.float32, net.decoder_bias.to(dtype)
    step = min(len(hidden), max(1, DECODED_ENTRIES // items))
    buffer = decoder.new_empty(step, items)  # memory of freed blocks may lie where no other fits
    for part in hidden.split(step):
        block = torch.addmm(bias, part.to(dtype), decoder.T, out=buffer[: len(part)])
        best = block.topk(min(k * (CANDIDATES if rough else 1), items), dim=1)
        parts.append(_rescored(net, part, best.indices, k) if rough else best)
    values, columns = (torch.cat(halves) for halves in zip(*parts, strict=True))
    return values, columns


def _rescored(net: CDNet, hidden: Tensor, columns: Tensor, k: int) -> tuple[Tensor, Tensor]:
    rows, width = columns.shape
    starts = np.arange(0, rows * width + 1, width)
    chosen = columns.sort(dim=1).values.flatten().cpu().numpy()
    pattern = (np.ones(len(chosen), np.float32), chosen, starts)
    return largest_among(net, hidden, sp.csr_array(pattern, shape=(rows, len(net.decoder))), k)


@torch.no_grad()
def largest_among(net: CDNet, hidden: Tensor, candidates: sp.csr_array, k: int) -> tuple[Tensor, Tensor]:
    """Find the k largest of some entries of decoded rows, in float32.

    Args:
        net: CD-Net.
        hidden: the rows before decoding, `(rows, hidden)`.
        candidates: the entries to look at, `(rows, items)`.
        k: entries to keep of a row; a row with fewer candidates is filled up with values of -inf.

    Returns:
        Values and columns, both `(rows, k)`, the largest first.
    """
    zeros = np.zeros(candidates.nnz, np.float32)
    parts = (candidates.indptr.astype(np.int64), candidates.indices.astype(np.int64), zeros)
    starts, chosen, values = (torch.from_numpy(part).to(hidden.device) for part in parts)
    pattern = torch.sparse_csr_tensor(starts, chosen, values, candidates.shape)
    products = torch.sparse.sampled_addmm(pattern, hidden, net.decoder.T).values()
    counts = starts.diff()
    there = torch.arange(max(k, int(counts.max())), device=hidden.device) < counts[:, None]
    entries, columns = hidden.new_full(there.shape, -torch.inf), chosen.new_zeros(there.shape)
    entries[there], columns[there] = products + net.decoder_bias[chosen], chosen
    best, places = entries.topk(k, dim=1)
    return best, columns.gather(1, places)
