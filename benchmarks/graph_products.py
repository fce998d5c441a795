"""Compare ways to propagate 64-wide embeddings over a user-item graph, forwards and backwards.

    python benchmarks/graph_products.py [DATA_SET_FOLDER]

Without a folder, a drawn graph of Amazon Baby's size is used.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from mmtoolkit.core.device import describe_device
from mmtoolkit.core.run import environment
from mmtoolkit.recommend.data.read import read_folder
from mmtoolkit.recommend.graphs.graph import Graph, user_item_graph


def interactions(folder: str | None) -> sp.csr_array:
    if folder:
        return read_folder(Path(folder)).train
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 19_445, 118_551)
    columns = (7_050 * rng.random(118_551) ** 2).astype(np.int64)
    return sp.csr_array((np.ones(118_551, np.float32), (rows, columns)), (19_445, 7_050))


def milliseconds(call: Callable[[Tensor], Tensor], x: Tensor, repeats: int = 15) -> float:
    times = []
    for _ in range(repeats):
        x.grad = None
        start = time.perf_counter()
        call(x).sum().backward()
        times.append(time.perf_counter() - start)
    return 1e3 * sorted(times)[repeats // 2]


def main() -> None:
    from torch_geometric.nn import LGConv

    matrix = user_item_graph(interactions(sys.argv[1] if len(sys.argv) > 1 else None))
    graph = Graph.from_scipy(matrix, torch.device("cpu"))
    edges, weights = graph.edges
    parts = matrix.indptr, matrix.indices, matrix.data
    csr = torch.sparse_csr_tensor(*(torch.from_numpy(part) for part in parts), matrix.shape)
    edge_index, layer = torch.from_numpy(np.stack(matrix.tocoo().coords).astype(np.int64)), LGConv(False)
    x = torch.randn(matrix.shape[0], 64, requires_grad=True)
    ways = {
        "embedding bag (used on CPUs)": graph.propagate,
        "EdgeIndex.matmul (on GPUs)": lambda x: edges.matmul(x, weights),
        "torch sparse CSR": lambda x: csr @ x,
        "LGConv on an edge list": lambda x: layer(x, edge_index, weights),
    }
    found = {name: milliseconds(call, x) for name, call in ways.items()}
    print(f"{environment()['cpu']}, {describe_device(torch.device('cpu'))}, {matrix.nnz:,} edges")
    for name, value in found.items():
        ratio = value / found["embedding bag (used on CPUs)"]
        print(f"{name:<28} {value:7.1f} ms forwards and backwards, {ratio:5.2f} of the first")


if __name__ == "__main__":
    main()
