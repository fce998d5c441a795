"""Item graphs: semantic from k-NN lists, behavioural from co-occurrence, and their normalisation.

All are sparse `(items, items)` matrices with a small number of entries per row; no dense one is made.
"""

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from mmtoolkit.core.errors import DataError
from mmtoolkit.core.logging import logger
from mmtoolkit.recommend.config import DataSettings, GraphSettings
from mmtoolkit.recommend.data.dataset import FloatArray, IntArray, Modality, RecommendData
from mmtoolkit.recommend.graphs.sparse import SparseRows, bag

warnings.filterwarnings("ignore", message="Sparse (CSR|invariant)")  # torch's, at the first product
if TYPE_CHECKING:
    from torch_geometric import EdgeIndex

BLOCK_ENTRIES = 2**24
"""Largest number of entries of a dense block of scores (64 MB in float32)."""


@dataclass(frozen=True)
class Graph:
    """A sparse matrix ready to be multiplied with embeddings, forwards and backwards."""

    rows: SparseRows

    @classmethod
    def from_scipy(cls, matrix: sp.csr_array, device: torch.device) -> Self:
        """Move a sparse matrix `(rows, columns)` to a device."""
        matrix = sp.csr_array(matrix)
        matrix.sort_indices()
        return cls(SparseRows(matrix, device))

    @cached_property
    def edges(self) -> "tuple[EdgeIndex, Tensor]":
        """The same matrix as edges and their weights, for GPUs."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about compiled extensions of torch-geometric that are optional
            from torch_geometric import EdgeIndex  # takes seconds and 170 MB, and CPUs do not need it
        coo, device = self.rows.matrix.tocoo(), self.rows.device
        index = torch.from_numpy(np.stack([coo.row, coo.col]).astype(np.int64))
        edges = EdgeIndex(index, sparse_size=coo.shape, sort_order="row").to(device)
        return edges.fill_cache_(), torch.from_numpy(coo.data.astype(np.float32)).to(device)

    def propagate(self, x: Tensor) -> Tensor:
        """Multiply the matrix with `x`, `(columns, width)` to `(rows, width)`."""
        if not x.is_cuda:
            return bag(x, self.rows)  # twice as fast on a CPU, see benchmarks/graph_products.py
        edges, weights = self.edges
        product: Tensor = edges.matmul(x, weights)
        return product


def nearest_neighbours(features: FloatArray, k: int, device: torch.device) -> IntArray:
    """Find the k items nearest by cosine, the item itself first, `(items, k)`.

    An item whose features are all zero is its own only neighbour, and no other item's.
    """
    x = torch.from_numpy(features).to(device)
    empty = ~x.any(dim=1)
    x = F.normalize(x, dim=1)
    items, k = len(x), min(k, len(x))
    lists = torch.empty(items, k, dtype=torch.int64)
    for start in range(0, items, step := max(1, BLOCK_ENTRIES // items)):
        scores = x[start : start + step] @ x.T
        scores[:, empty] = -2  # below every cosine
        rows = torch.arange(len(scores), device=device)
        scores[rows, rows + start] = 2  # above every cosine: the item itself comes first
        lists[start : start + step] = scores.topk(k, dim=1).indices.cpu()
    empty = empty.cpu()
    lists[empty] = torch.arange(items)[empty, None]
    return lists.numpy()


def list_graph(lists: IntArray) -> sp.csr_array:
    """Turn neighbour lists `(items, k)` into a binary graph `(items, items)`."""
    items, k = lists.shape
    rows = np.repeat(np.arange(items), k)
    graph = sp.csr_array((np.ones(items * k, np.float32), (rows, lists.ravel())), (items, items))
    graph.sum_duplicates()
    graph.data[:] = 1
    return graph


def semantic_graph(
    data: RecommendData, chosen: DataSettings, neighbours: int, device: torch.device
) -> sp.csr_array:
    """Sum the k-NN graphs of the modalities, each times its weight phi (step 1 of the method).

    Raises:
        DataError: if the data set lacks a weighted modality, or a neighbour list of that length.
    """
    weights = modality_weights(data.modalities, chosen.modalities)
    graph = sp.csr_array((data.items, data.items), dtype=np.float32)
    for name, weight in weights.items():
        lists = _lists(name, data.modalities[name], neighbours, device)
        graph = graph + np.float32(weight) * list_graph(lists)
    return sp.csr_array(graph)


def modality_weights(known: Mapping[str, Modality], wanted: Mapping[str, float]) -> dict[str, float]:
    """Return the weight of each modality in use.

    Raises:
        DataError: if the data set lacks a weighted modality.
    """
    if not wanted:
        return {name: 1 / len(known) for name in known}
    weights = {name: weight for name, weight in wanted.items() if weight}
    missing = sorted(weights.keys() - known.keys())
    if missing:
        raise DataError(
            f"modality '{missing[0]}' is not in the data set, which has {', '.join(known)}; "
            "set data.modalities to {} for all of them, equally weighted"
        )
    unused = sorted(known.keys() - weights.keys())
    if unused:
        logger.info("modalities not used: %s", ", ".join(unused))
    return weights


def _lists(name: str, modality: Modality, k: int, device: torch.device) -> IntArray:
    if k in modality.neighbours:
        return modality.neighbours[k]
    if modality.features is None:
        lengths = ", ".join(str(length) for length in sorted(modality.neighbours))
        raise DataError(
            f"modality '{name}' has no features and no list of {k} neighbours; "
            f"set graph.neighbours to {lengths}"
        )
    return nearest_neighbours(modality.features, k, device)


def behaviour_graph(train: sp.csr_array, settings: GraphSettings) -> sp.csr_array:
    """Link items that many users share, with a self loop (step 2 of the method).

    Of the counts from the threshold on, the largest of each row are kept (of equal ones, the lower id).
    Entries are 1, or with `behaviour_weights: count` the count divided by the row's largest.
    """
    blocks = []
    for _, counts in _shared_users(train, settings.co_occurrence_threshold):
        block = _largest_of_rows(counts, counts.data, settings.behaviour_neighbours)
        largest = block.data
        if settings.behaviour_weights == "count":
            largest = np.repeat(block.max(axis=1).toarray().ravel(), np.diff(block.indptr))
        block.data = block.data / largest
        blocks.append(block)
    loops = sp.eye_array(train.shape[1], dtype=np.float32, format="csr")
    return sp.csr_array(sp.vstack(blocks) + loops).astype(np.float32)


def cosine_neighbours(train: sp.csr_array, neighbours: int, shrinkage: float) -> sp.csr_array:
    """Keep the largest shrunk cosines between the users of each item and those of the other items.

    The similarity of i and j is |U_i n U_j| / (sqrt(|U_i| |U_j|) + shrinkage).

    Args:
        train: `(users, items)`.
        neighbours: number of entries kept in each row (of equal ones, the lower id).
        shrinkage: lowers the similarity of pairs with only some shared users.

    Returns:
        `(items, items)`, with an empty diagonal.
    """
    root = np.sqrt(np.bincount(train.indices, minlength=train.shape[1]))
    blocks = []
    for start, counts in _shared_users(train):
        cosines = counts.data / (root[counts.row + start] * root[counts.col] + shrinkage)
        blocks.append(_largest_of_rows(counts, cosines, neighbours))
    return sp.csr_array(sp.vstack(blocks)).astype(np.float32)


def _shared_users(train: sp.csr_array, fewest: int = 1) -> Iterator[tuple[int, sp.coo_array]]:
    """Count the users of pairs of different items, a block of items at a time.

    Yields:
        First item of the block, and the counts `(block, items)` that are at least `fewest`.
    """
    by_item = sp.csr_array(train.T)
    # an item with buyers of h items each meets at most the sum of their h others: an upper bound for a block
    most = np.cumsum(by_item @ np.diff(train.indptr))
    cuts = np.searchsorted(most, np.arange(BLOCK_ENTRIES, most[-1], BLOCK_ENTRIES))
    for start, stop in pairwise(np.unique([0, *cuts, len(most)]).tolist()):
        counts = sp.csr_array(by_item[start:stop] @ train)
        kept = np.flatnonzero(
            counts.data >= fewest
        )  # far fewer than all counts, so only these get row numbers
        rows = np.repeat(np.arange(stop - start), np.diff(np.searchsorted(kept, counts.indptr)))
        columns, shared = counts.indices[kept], counts.data[kept]
        others = rows + start != columns
        yield start, sp.coo_array((shared[others], (rows[others], columns[others])), counts.shape)


def _largest_of_rows(pattern: sp.coo_array, values: NDArray[Any], k: int) -> sp.csr_array:
    """Give the entries of a pattern values, and keep the k largest of each row (of equal ones, the first)."""
    order = np.lexsort((pattern.col, -values, pattern.row))
    rows, columns, values = pattern.row[order], pattern.col[order], values[order]
    # the rank of an entry within its row is its distance to the first entry of that row
    first = np.arange(len(rows)) - np.searchsorted(rows, rows) < k
    return sp.csr_array((values[first], (rows[first], columns[first])), pattern.shape)


def weighted_list_graph(lists: Tensor, scores: Tensor, weights: Literal["binary", "score"]) -> sp.csr_array:
    """Turn the top entries of the denoised rows into a graph (step 5 of the method).

    Args:
        lists: neighbours, `(items, k)`.
        scores: the denoised entries, `(items, k)`; -inf if a row has fewer than k.
        weights: `binary`, 1 for each edge, or `score`, the entry if it is positive.
    """
    items = len(lists)
    finite = scores.isfinite().cpu().numpy()
    entries = scores.clamp(min=0) if weights == "score" else torch.ones_like(scores)
    values, columns = (part.cpu().numpy()[finite] for part in (entries, lists))
    rows = np.nonzero(finite)[0]
    return sp.csr_array((values.astype(np.float32), (rows, columns)), (items, items))


def normalise_symmetric(graph: sp.csr_array) -> sp.csr_array:
    """Return D^-1/2 A D^-1/2 with D the row sums; rows that sum to 0 stay empty."""
    degree = np.asarray(graph.sum(axis=1)).ravel()
    scale = np.divide(1, np.sqrt(degree), out=np.zeros_like(degree), where=degree > 0)
    return sp.csr_array(sp.diags_array(scale) @ graph @ sp.diags_array(scale))


def user_item_graph(train: sp.csr_array) -> sp.csr_array:
    """Return the normalised adjacency of users and items, `(users + items, users + items)`."""
    return normalise_symmetric(sp.csr_array(sp.block_array([[None, train], [train.T, None]])))


def edge_purity(graph: sp.csr_array, groups: IntArray) -> float:
    """Return the share of a graph's edges within a known group; self loops do not count."""
    coo = graph.tocoo()
    between = coo.row != coo.col
    same = groups[coo.row[between]] == groups[coo.col[between]]
    return float(same.mean()) if len(same) else float("nan")
