"""Compare the behavioural graph with a double loop, and full ranking with its bare products and top-k.

python benchmarks/recommend_parts.py DATA_SET_FOLDER
"""

import sys
import time
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch

from mmtoolkit.core.config import config_layer, resolve
from mmtoolkit.core.device import describe_device
from mmtoolkit.core.run import environment
from mmtoolkit.recommend.config import RecommendSettings
from mmtoolkit.recommend.data.dataset import RecommendData
from mmtoolkit.recommend.data.read import load_data
from mmtoolkit.recommend.evaluation.metrics import score_users
from mmtoolkit.recommend.graphs.graph import behaviour_graph
from mmtoolkit.recommend.models.learner import Embeddings

CPU = torch.device("cpu")


def seconds(call: Callable[[], Any], repeats: int = 3) -> tuple[float, Any]:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = call()
        times.append(time.perf_counter() - start)
    return min(times), result


def show(name: str, fast: float, other: str, slow: float) -> None:
    print(f"{name:<36}{fast:8.3f} s   {other:<14}{slow:8.3f} s   {slow / fast:8.2f} times")


def double_loop(train: sp.csr_array, threshold: int, neighbours: int) -> list[set[int]]:
    """Count shared users for every pair of items, as the published script does."""
    by_item = sp.csc_array(train)
    users = [set(by_item.indices[a:b]) for a, b in zip(by_item.indptr, by_item.indptr[1:], strict=False)]
    counts: list[dict[int, int]] = [{} for _ in users]
    for i, j in combinations(range(len(users)), 2):
        shared = len(users[i] & users[j])
        if shared >= threshold:
            counts[i][j] = counts[j][i] = shared
    ranked = (sorted(count.items(), key=lambda pair: (-pair[1], pair[0])) for count in counts)
    return [{item, *(j for j, _ in best[:neighbours])} for item, best in enumerate(ranked)]


def compare_behaviour(data: RecommendData, settings: RecommendSettings) -> None:
    graph = settings.graph
    fast, found = seconds(lambda: behaviour_graph(data.train, graph))
    slow, expected = seconds(
        lambda: double_loop(data.train, graph.co_occurrence_threshold, graph.behaviour_neighbours), 1
    )
    same = [set(found.indices[a:b]) for a, b in zip(found.indptr, found.indptr[1:], strict=False)] == expected
    show("behavioural graph", fast, "double loop", slow)
    assert same, "both must find the same edges"


def compare_evaluation(data: RecommendData, settings: RecommendSettings) -> None:
    torch.manual_seed(0)
    users, items = torch.randn(data.users, 64), torch.randn(data.items, 64)
    chosen = np.flatnonzero(np.diff(data.test.indptr))
    k, block = settings.evaluate.top_k[-1], settings.evaluate.batch_size

    def bare() -> None:
        for ids in torch.from_numpy(chosen).split(block):
            (users[ids] @ items.T).topk(k, dim=1)

    whole, _ = seconds(lambda: score_users(Embeddings(users, items).scores, data, "test", settings.evaluate))
    least, _ = seconds(bare)
    show(f"products and top-k, {len(chosen):,} users", least, "full ranking", whole)


def main() -> None:
    data = load_data(Path(sys.argv[1]))
    settings = resolve(RecommendSettings, [config_layer("recommend", "igdmrec")]).settings
    print(f"{environment()['cpu']}, {describe_device(CPU)}, {data.name}: {data.users:,} x {data.items:,}")
    compare_behaviour(data, settings)
    compare_evaluation(data, settings)


if __name__ == "__main__":
    main()
