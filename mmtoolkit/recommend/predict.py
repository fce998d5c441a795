"""Recommend items to users: the function behind `mmtk recommend predict`."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import scipy.sparse as sp
import torch

from mmtoolkit.recommend.data.dataset import SPLITS, IntArray
from mmtoolkit.recommend.evaluation.metrics import rank_unseen
from mmtoolkit.recommend.load import Model, opened
from mmtoolkit.recommend.serving.lists import Ranked, ranked

Seen = Literal["train", "validation", "all"]


def predict(
    model: Model | Path,
    users: Sequence[int] | IntArray | None = None,
    top_k: int = 20,
    seen: Seen = "train",
) -> Iterator[Ranked]:
    """Recommend the best unseen items to users, a batch of users at a time.

    Args:
        model: from :func:`mmtoolkit.recommend.load.load`, or the folder of a run.
        users: their numbers, `(n,)`; the lists come in this order; default: all users.
        top_k: length of the lists; shorter if fewer items are unseen.
        seen: what counts as seen: training items, those and validation, or all splits.
    """
    model = opened(model)
    chosen = np.arange(model.data.users) if users is None else np.asarray(users, np.int64)
    batch = model.settings.evaluate.batch_size
    with torch.no_grad():
        for block, items, scores in rank_unseen(model.scores, seen_items(model, seen), chosen, top_k, batch):
            yield from ranked(block, items, scores)


def seen_items(model: Model, seen: Seen) -> sp.csr_array:
    """Return what must not be recommended, `(users, items)`."""
    splits = SPLITS[: {"train": 1, "validation": 2, "all": 3}[seen]]
    return sp.csr_array(sum(model.data.split(name) for name in splits))
