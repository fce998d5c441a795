"""Recommend items with a trained run."""

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from mmtoolkit.core.errors import UsageError
from mmtoolkit.recommend.data.dataset import SPLITS, IntArray
from mmtoolkit.recommend.evaluation.metrics import rank_unseen
from mmtoolkit.recommend.load import Model
from mmtoolkit.recommend.serving.lists import Ranked
from mmtoolkit.recommend.serving.names import Names, parse_ids

Seen = Literal["train", "validation", "all"]


def predict(model: Model, users: IntArray, top_k: int = 20, seen: Seen = "train") -> Iterator[Ranked]:
    """Recommend the best unseen items for some users, a batch of them at a time.

    Args:
        model: from :func:`mmtoolkit.recommend.load.load_model`.
        users: numbers, `(n,)`; lists come in this order.
        top_k: length of the lists; shorter where fewer items are unseen.
        seen: what counts as seen: training items, those and validation, or all splits.
    """
    batch = model.settings.evaluate.batch_size
    with torch.no_grad():
        for block, items, scores in rank_unseen(model.scores, seen_items(model, seen), users, top_k, batch):
            yield from ranked(block, items, scores)


def chosen_numbers(given: Sequence[str], names: Names) -> IntArray:
    """Turn ids, or files of ids, into numbers; none means all.

    Raises:
        UsageError: if nobody has such an id.
        DataError: if a file cannot be read, naming the line of a bad id.
    """
    return np.array(parse_ids(given, names), np.int64) if given else np.arange(names.count)


def seen_items(model: Model, seen: Seen) -> sp.csr_array:
    """Return what must not be recommended, `(users, items)`."""
    splits = SPLITS[: {"train": 1, "validation": 2, "all": 3}[seen]]
    return sp.csr_array(sum(model.data.split(name) for name in splits))


def ranked(keys: IntArray, items: Tensor, scores: Tensor) -> Iterator[Ranked]:
    """Turn a block of rankings into lists, without what scores minus infinity.

    Args:
        keys: whose lists they are, `(block,)`.
        items: `(block, k)`, best first.
        scores: `(block, k)`.
    """
    for key, row, values in zip(keys.tolist(), items.tolist(), scores.tolist(), strict=True):
        length = int(np.isfinite(values).sum())
        yield Ranked(key, row[:length], values[:length])


def representations(model: Model, purpose: str) -> tuple[Tensor, Tensor]:
    """Return the representations of users and items.

    Raises:
        UsageError: if the model has none.
    """
    if model.users is None or model.items is None:
        raise UsageError(
            f"{purpose} needs user and item embeddings, and {model.settings.model.kind} has none; "
            "take a run of igdmrec, freedom, vbpr, lightgcn or bpr-mf"
        )
    return model.users, model.items
