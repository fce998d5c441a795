"""Search the largest entries of denoised rows: among all items, or among neighbours of neighbours."""

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from mmtoolkit.recommend.models.networks import CDNet

EXACT_UP_TO = 200_000
"""Number of items above which `graph.search: auto` searches among candidates."""

DECODED_ENTRIES = 2**23
"""Entries of a block of decoded rows, `(rows, items)` (32 MB): enough rows for a fast product."""

CANDIDATES = 3
"""Entries that a search in low precision keeps for each wanted entry."""

RECALL_ROWS = 250
"""Rows on which a search among candidates is compared with all items."""


def neighbourhood(semantic: sp.csr_array, behaviour: sp.csr_array) -> sp.csr_array:
    """Return the union of both graphs with self loops, `(items, items)`, all entries 1."""
    own = sp.eye_array(semantic.shape[0], dtype=np.float32, format="csr")
    linked = sp.csr_array(abs(semantic) + abs(behaviour) + own)
    linked.data[:] = 1
    return linked


@torch.no_grad()
def largest_entries(net: CDNet, hidden: Tensor, k: int, decoder: Tensor) -> tuple[Tensor, Tensor]:
    """Find the k largest entries of decoded rows.

    With a decoder in lower precision than float32, `CANDIDATES` times k entries are found first, and their
    values are then computed in float32.

    Args:
        net: CD-Net.
        hidden: the rows before decoding, `(rows, hidden)`.
        k: number of entries to keep of a row.
        decoder: W_d, `(items, hidden)`, in the precision to search in.

    Returns:
        Values in float32 and columns, both `(rows, k)`, the largest first.
    """
    items, dtype, parts = len(decoder), decoder.dtype, []
    k, rough, bias = min(k, items), dtype != torch.float32, net.decoder_bias.to(dtype)
    step = min(len(hidden), max(1, DECODED_ENTRIES // items))
    buffer = decoder.new_empty(step, items)  # one buffer for all blocks, as freed ones fragment the memory
    for part in hidden.split(step):
        block = torch.addmm(bias, part.to(dtype), decoder.T, out=buffer[: len(part)])
        best = block.topk(min(k * (CANDIDATES if rough else 1), items), dim=1)
        parts.append(_rescored(net, part, best.indices, k) if rough else best)
    values, columns = (torch.cat(blocks) for blocks in zip(*parts, strict=True))
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
        candidates: pattern of the entries to compare, `(rows, items)`.
        k: number of entries to keep of a row; a row with fewer candidates ends with values of -inf.

    Returns:
        Values and columns, both `(rows, k)`, the largest first.
    """
    zeros = np.zeros(candidates.nnz, np.float32)
    parts = (candidates.indptr.astype(np.int64), candidates.indices.astype(np.int64), zeros)
    starts, chosen, values = (torch.from_numpy(part).to(hidden.device) for part in parts)
    pattern = torch.sparse_csr_tensor(starts, chosen, values, candidates.shape)
    products = torch.sparse.sampled_addmm(pattern, hidden, net.decoder.T).values()
    counts = starts.diff()
    # rows of different lengths become one padded array, so that a single topk serves all of them
    used = torch.arange(max(k, int(counts.max())), device=hidden.device) < counts[:, None]
    entries, columns = hidden.new_full(used.shape, -torch.inf), chosen.new_zeros(used.shape)
    entries[used], columns[used] = products + net.decoder_bias[chosen], chosen
    best, positions = entries.topk(k, dim=1)
    return best, columns.gather(1, positions)
