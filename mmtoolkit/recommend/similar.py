"""Items that are near each other in the trained item space."""

from collections.abc import Iterator

import torch
from torch.nn import functional as F

from mmtoolkit.recommend.data.dataset import IntArray
from mmtoolkit.recommend.graphs.graph import BLOCK_ENTRIES
from mmtoolkit.recommend.load import Model
from mmtoolkit.recommend.predict import ranked, representations
from mmtoolkit.recommend.serving.lists import Ranked


def similar_items(model: Model, items: IntArray, top_k: int = 10) -> Iterator[Ranked]:
    """Find the nearest other items by cosine of the trained representations.

    Args:
        model: from :func:`mmtoolkit.recommend.load.load_model`.
        items: numbers, `(n,)`; lists come in this order.
        top_k: length of the lists.

    Raises:
        UsageError: if the model has no embeddings.
    """
    space = F.normalize(representations(model, "similar")[1], dim=1)
    for start in range(0, len(items), step := max(1, BLOCK_ENTRIES // len(space))):
        block = items[start : start + step]
        chosen = torch.from_numpy(block).to(space.device)
        scores = space[chosen] @ space.T
        scores[torch.arange(len(block), device=space.device), chosen] = -torch.inf
        best = scores.topk(min(top_k, len(space)), dim=1)
        yield from ranked(block, best.indices, best.values)
