"""Find similar items: the function behind `mmtk recommend similar`."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from mmtoolkit.recommend.data.dataset import IntArray
from mmtoolkit.recommend.graphs.graph import BLOCK_ENTRIES
from mmtoolkit.recommend.load import Model, opened
from mmtoolkit.recommend.serving.lists import Ranked, ranked


def similar(
    model: Model | Path, items: Sequence[int] | IntArray | None = None, top_k: int = 10
) -> Iterator[Ranked]:
    """Find the nearest other items by cosine of the trained representations.

    Args:
        model: from :func:`mmtoolkit.recommend.load.load`, or the folder of a run.
        items: their numbers, `(n,)`; the lists come in this order; default: all items.
        top_k: length of the lists.

    Raises:
        UsageError: if the model has no embeddings.
    """
    model = opened(model)
    space = F.normalize(model.representations("similar")[1], dim=1)
    wanted = np.arange(len(space)) if items is None else np.asarray(items, np.int64)
    for start in range(0, len(wanted), step := max(1, BLOCK_ENTRIES // len(space))):
        block = wanted[start : start + step]
        chosen = torch.from_numpy(block).to(space.device)
        scores = space[chosen] @ space.T
        scores[torch.arange(len(block), device=space.device), chosen] = -torch.inf
        best = scores.topk(min(top_k, len(space)), dim=1)
        yield from ranked(block, best.indices, best.values)
