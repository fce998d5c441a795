"""Recommend to new users without training again.

A new user is folded in: if the model is linear, by the same sum that makes a trained user from a history.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from mmtoolkit.core.errors import DataError, UsageError
from mmtoolkit.core.logging import logger
from mmtoolkit.recommend.data.dataset import IntArray
from mmtoolkit.recommend.evaluation.metrics import rank_unseen
from mmtoolkit.recommend.load import Model, opened
from mmtoolkit.recommend.models.learner import Embeddings, Scorer, WithHistory
from mmtoolkit.recommend.prepare.config import ColumnSettings
from mmtoolkit.recommend.prepare.interactions import Interactions, read_interactions
from mmtoolkit.recommend.prepare.manifest import MANIFEST, header_options, read_preparation
from mmtoolkit.recommend.serving.lists import Ranked, ranked
from mmtoolkit.recommend.serving.names import Names
from mmtoolkit.recommend.serving.paths import linear_paths

RIDGE = 1e-2
"""Ridge penalty of the fitted fold-in, as a share of the mean squared length of the summed histories."""


@torch.no_grad()
def fold_in(
    model: Model | Path,
    histories: Sequence[Sequence[int] | IntArray],
    top_k: int = 20,
    *,
    keep_seen: bool = False,
) -> Iterator[Ranked]:
    """Recommend to users that training never saw.

    Args:
        model: from :func:`mmtoolkit.recommend.load.load`, or the folder of a run.
        histories: numbers of the known items of each new user, at least one.
        top_k: length of the lists.
        keep_seen: recommend items of the history too.

    Yields:
        A list for each new user, whose key is the index in `histories`.
    """
    if not histories:
        return
    model, items_of = opened(model), [np.asarray(history, np.int64) for history in histories]
    rows = _history_matrix(items_of, model.data.items)
    seen = sp.csr_array(rows.shape, dtype=rows.dtype) if keep_seen else rows
    scores, batch = _new_user_scorer(model, items_of, rows).scores, model.settings.evaluate.batch_size
    for block, items, values in rank_unseen(scores, seen, np.arange(len(histories)), top_k, batch):
        yield from ranked(block, items, values)


def _new_user_scorer(model: Model, histories: Sequence[IntArray], rows: sp.csr_array) -> Scorer:
    """Fold in all users at once, as the fit is the same for all; `rows` are the histories as a matrix."""
    remembered = None if model.history is None else replace(model.history, history=rows)
    if remembered is not None and model.items is None:
        return remembered
    items = model.representations("new-users")[1]
    embeddings = Embeddings(fold_in_users(model, histories).to(items), items)
    return embeddings if remembered is None else WithHistory(embeddings, remembered)


def _history_matrix(histories: Sequence[IntArray], items: int) -> sp.csr_array:
    lengths = [len(history) for history in histories]
    ends = np.cumsum([0, *lengths])
    ones = np.ones(ends[-1], np.float32)
    return sp.csr_array((ones, np.concatenate(histories), ends), shape=(len(histories), items))


def fold_in_users(model: Model, histories: Sequence[IntArray]) -> Tensor:
    """Return representations of new users, `(users, width)`.

    igdmrec, freedom and lightgcn: the sum over the history that makes a trained user, without the part of
    the user's own embedding (which is 0 with `layer_combination: last`). Other models: a ridge regression
    from the mean item of a history to the user, fitted on the trained users.

    Raises:
        UsageError: if the model has no embeddings, or no propagation to fold in with.
    """
    paths = linear_paths(model)
    if paths is None:
        return _regress_users(model, histories)
    if not paths.passed.any():
        raise UsageError(
            "new-users: with model.layers 0 users do not depend on items; train with at least one layer"
        )
    vectors = np.stack([paths.history_vectors(history).sum(axis=0) for history in histories])
    return torch.from_numpy(vectors).float()


def _regress_users(model: Model, histories: Sequence[IntArray]) -> Tensor:
    users, items = (part.double().cpu().numpy() for part in model.representations("new-users"))
    train = model.data.train
    lengths = np.maximum(np.diff(train.indptr), 1)[:, None]
    # the last column fits an intercept
    means = np.concatenate([(train @ items) / lengths, np.ones((len(users), 1))], axis=1)
    gram = means.T @ means
    penalty = RIDGE * np.trace(gram) / len(gram) * np.eye(len(gram))
    weights = np.linalg.solve(gram + penalty, means.T @ users)
    new = np.stack([np.append(items[history].mean(axis=0), 1.0) for history in histories])
    return torch.from_numpy(new @ weights).float()


def read_histories(model: Model, path: Path, items: Names) -> tuple[Names, list[IntArray]]:
    """Read the items of new users; items that training never saw are left out.

    Returns:
        Ids of the new users, and the item numbers of each.

    Raises:
        DataError: naming the line that cannot be used, or if no item is known.
    """
    columns, least = _preparation_of(model)
    parts = () if least is None else ("rating",)
    options = header_options(columns, {role: role for role in ("user", "item", "rating")})
    table = read_interactions(path, columns, parts, parts, options)
    if least is not None:
        table = _well_rated(table, least, path)
    numbers = np.array([-1 if (n := items.find(name)) is None else n for name in table.item_names])
    known = numbers[table.items] >= 0
    if not known.any():
        raise DataError(f"none of its items is known; {items.which()}", path=path)
    kept = table.pick(known)
    lost = len(table.user_names) - len(kept.user_names)
    if not known.all():
        logger.warning(
            "%s: %d of %d interactions are with unknown items; %d users have no other",
            *(path.name, int((~known).sum()), len(known), lost),
        )
    found = np.array([items.find(name) for name in kept.item_names], np.int64)
    order = np.argsort(kept.users, kind="stable")
    cuts = np.cumsum(np.bincount(kept.users))[:-1]
    histories = [np.unique(part) for part in np.split(found[kept.items[order]], cuts)]
    return Names("user", len(histories), kept.user_names), histories


def _well_rated(table: Interactions, least: float, path: Path) -> Interactions:
    """Leave out ratings that the data set does not count as positive."""
    rule = f"the data set counts ratings from {least:g} on (filter.min_rating)"
    if table.rating is None:
        raise DataError(f"no column looks like the rating, and {rule}; add a column 'rating'", path=path)
    good = table.rating >= least
    if not good.any():
        raise DataError(f"{rule}, and none of its ratings is as high", path=path)
    if not good.all():
        logger.info("%s: %d of %d interactions left out; %s", path.name, int((~good).sum()), len(good), rule)
    return table.pick(good)


def _preparation_of(model: Model) -> tuple[ColumnSettings, float | None]:
    """Return the columns and the lowest rating of the data set's interactions."""
    folder = model.settings.data.path
    if folder is None or not (folder / MANIFEST).is_file():
        return ColumnSettings(), None
    settings = read_preparation(model.settings.data.path)[0]
    return settings.columns, settings.filter.min_rating
