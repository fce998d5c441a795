"""The largest entries of denoised rows: among all items, or among neighbours and their neighbours."""

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from mmtoolkit.recommend.graph import BLOCK_ENTRIES
from mmtoolkit.recommend.model import CDNet

EXACT_UP_TO = 200_000
"""Items beyond which `graph.search: auto` looks among candidates."""

RECALL_ROWS = 1000
"""Rows on which a search among candidates is compared with all items."""


def neighbourhood(semantic: sp.csr_array, behaviour: sp.csr_array) -> sp.csr_array:
    """Return the pattern of both graphs together, every item linked with itself, `(items, items)`."""
    own = sp.eye_array(semantic.shape[0], dtype=np.float32, format="csr")
    linked = sp.csr_array(abs(semantic) + abs(behaviour) + own)
    linked.data[:] = 1
    return linked


@torch.no_grad()
def largest_entries(net: CDNet, hidden: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Find the k largest entries of decoded rows, in float32.

    Args:
        net: CD-Net.
        hidden: the rows before decoding, `(rows, hidden)`.
        k: entries to keep of a row.

    Returns:
        Values and columns, both `(rows, k)`, the largest first.
    """
    items, parts = len(net.decoder), []
    for part in hidden.split(max(1, BLOCK_ENTRIES // items)):
        block = torch.addmm(net.decoder_bias, part, net.decoder.T)
        parts.append(block.topk(min(k, items), dim=1))
    values, columns = (torch.cat(halves) for halves in zip(*parts, strict=True))
    return values, columns


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
