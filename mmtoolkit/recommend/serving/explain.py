"""Explain recommendations: how much each history item and each graph neighbour adds to a score.

For linear models (igdmrec, freedom, lightgcn, ease, item-knn) the parts add up to the score.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray

from mmtoolkit.core.errors import UsageError
from mmtoolkit.recommend.data.dataset import IntArray
from mmtoolkit.recommend.graphs.graph import modality_weights
from mmtoolkit.recommend.load import Model
from mmtoolkit.recommend.serving.lists import Ranked
from mmtoolkit.recommend.serving.names import Names
from mmtoolkit.recommend.serving.paths import DoubleArray, LinearPaths, linear_paths

BEHAVIOUR = "behaviour"


@dataclass(frozen=True)
class Reason:
    """One part of a score.

    Attributes:
        item: the item that adds this part.
        part: its amount of the score.
        links: modalities in which one item is among the nearest items of the other; `behaviour` if enough
            users have both.
        shared_users: number of training users who have both.
    """

    item: int
    part: float
    links: list[str]
    shared_users: int


@dataclass(frozen=True)
class Explanation:
    """A score as two sums: over the user's history, and over the item's neighbours.

    score = sum of `history` + `history_rest` + `own`
          = sum of `neighbours` + `neighbours_rest` + `collaborative` + `remembered`

    Attributes:
        user: number of the user.
        item: number of the recommended item.
        score: the model's score.
        history: the largest parts of the user's items.
        history_rest: sum of the other parts of the history.
        own: part of the user's own embedding (0 if the last layer is used).
        neighbours: the largest parts of the recommended item's neighbours in the item graph, including the
            item itself; None for models without such a graph.
        neighbours_rest: sum of the other neighbours' parts.
        collaborative: part that the item gets from its buyers.
        remembered: part of the history term (`history.weight`); `history` includes it.
    """

    user: int
    item: int
    score: float
    history: list[Reason]
    history_rest: float
    own: float = 0.0
    neighbours: list[Reason] | None = None
    neighbours_rest: float = 0.0
    collaborative: float = 0.0
    remembered: float = 0.0


class Links:
    """Find what links two items; the nearest items of each item are computed once and kept."""

    def __init__(self, model: Model) -> None:
        """Take the modalities and the thresholds of the model's run."""
        self.model = model
        self.neighbours = model.settings.graph.neighbours
        self.modalities = list(modality_weights(model.data.modalities, model.settings.data.modalities))
        self.threshold = model.settings.graph.co_occurrence_threshold
        self._near: dict[tuple[str, int], frozenset[int]] = {}

    @cached_property
    def _by_item(self) -> sp.csr_array:
        return sp.csr_array(self.model.data.train.T)

    @cached_property
    def _unit_features(self) -> dict[str, NDArray[np.float32]]:
        modalities = self.model.data.modalities
        units = {}
        for name in self.modalities:
            features = modalities[name].features
            if features is not None and self.neighbours not in modalities[name].neighbours:
                lengths = np.linalg.norm(features, axis=1, keepdims=True)
                units[name] = (features / np.where(lengths > 0, lengths, 1)).astype(np.float32)
        return units

    def between(self, item: int, other: int) -> tuple[list[str], int]:
        """Return the links of two items and the number of users who have both."""
        names = [
            name
            for name in self.modalities
            if item != other and (other in self.near(name, item) or item in self.near(name, other))
        ]
        shared = len(np.intersect1d(self._buyers(item), self._buyers(other), assume_unique=True))
        if item != other and shared >= self.threshold:
            names.append(BEHAVIOUR)
        return names, shared

    def near(self, modality: str, item: int) -> frozenset[int]:
        """Return the nearest items of an item in a modality, as in the semantic graph."""
        key = (modality, item)
        if key not in self._near:
            self._near[key] = frozenset(self._find(modality, item))
        return self._near[key]

    def _find(self, modality: str, item: int) -> list[int]:
        lists = self.model.data.modalities[modality].neighbours
        if self.neighbours in lists:
            return [int(other) for other in lists[self.neighbours][item]]
        unit = self._unit_features.get(modality)
        if unit is None or not unit[item].any():
            return []
        scores = unit @ unit[item]
        scores[~unit.any(axis=1)] = -np.inf
        best = np.argpartition(-scores, min(self.neighbours, len(scores) - 1))[: self.neighbours]
        return [int(other) for other in best]

    def _buyers(self, item: int) -> IntArray:
        matrix = self._by_item
        users: IntArray = matrix.indices[matrix.indptr[item] : matrix.indptr[item + 1]]
        return users


class Explainer:
    """Explains the scores of one model."""

    def __init__(self, model: Model, most: int = 3) -> None:
        """Split the model into its linear parts.

        Args:
            model: from :func:`mmtoolkit.recommend.load.load`.
            most: number of parts named in each sum; the others are added up.

        Raises:
            UsageError: if the model's scores are no sums over a history or over neighbours.
        """
        self.model, self.most, self.links = model, most, Links(model)
        self.paths = linear_paths(model)
        if self.paths is None and model.history is None:
            raise UsageError(
                f"`explain`: the scores of {model.settings.model.kind} are no sums over history or "
                "neighbours; take a run of igdmrec, freedom, lightgcn, ease or item-knn"
            )

    @cached_property
    def _items(self) -> DoubleArray:
        assert self.paths is not None
        return self.paths.items

    def explain(self, user: int, item: int) -> Explanation:
        """Split the score of an item for a user into its parts."""
        train = self.model.data.train
        history = train.indices[train.indptr[user] : train.indptr[user + 1]].astype(np.int64)
        remembered = self._weights_of_history(history, item)
        if self.paths is None:
            reasons, rest = self._largest(item, history, remembered)
            return Explanation(user, item, float(remembered.sum()), reasons, rest)
        return self._explain_paths(self.paths, user, item, history, remembered)

    def _weights_of_history(self, history: IntArray, item: int) -> DoubleArray:
        """Return what the history term adds to a score for each item of a history, `(history,)`."""
        if self.model.history is None:
            return np.zeros(len(history))
        weights = self.model.history.weights
        if isinstance(weights, torch.Tensor):
            return weights[torch.from_numpy(history), item].double().cpu().numpy()
        column = weights[history][:, [item]].toarray()
        return np.asarray(column, np.float64).ravel()

    def _explain_paths(
        self, paths: LinearPaths, user: int, item: int, history: IntArray, remembered: DoubleArray
    ) -> Explanation:
        vectors = paths.history_vectors(history)
        own = float(paths.own[user] @ self._items[item])
        by_history = vectors @ self._items[item] + remembered
        whole = paths.own[user] + vectors.sum(axis=0)
        graph = paths.item_graph
        row = slice(graph.indptr[item], graph.indptr[item + 1])
        near = graph.indices[row].astype(np.int64)
        by_neighbour = graph.data[row].astype(np.float64) * (paths.neighbours[near] @ whole)
        reasons, rest = self._largest(item, history, by_history)
        neighbours, neighbours_rest = self._largest(item, near, by_neighbour)
        return Explanation(
            user,
            item,
            float(by_history.sum() + own),
            reasons,
            rest,
            own,
            neighbours,
            neighbours_rest,
            float(paths.collaborative[item] @ whole),
            float(remembered.sum()),
        )

    def _largest(self, item: int, items: IntArray, parts: DoubleArray) -> tuple[list[Reason], float]:
        order = np.argsort(-parts, kind="stable")
        named, others = order[: self.most], order[self.most :]
        reasons = [
            Reason(int(items[index]), float(parts[index]), *self.links.between(item, int(items[index])))
            for index in named
        ]
        return reasons, float(parts[others].sum())


def explanation_record(one: Explanation, users: Names, items: Names) -> dict[str, Any]:
    """Return an explanation with the shop's ids, as an object for JSON lines."""

    def reasons(parts: list[Reason]) -> list[dict[str, Any]]:
        return [
            {"item": items.id(r.item), "part": r.part, "links": r.links, "shared_users": r.shared_users}
            for r in parts
        ]

    record: dict[str, Any] = {
        "user": users.id(one.user),
        "item": items.id(one.item),
        "score": one.score,
        "history": reasons(one.history),
        "history_rest": one.history_rest,
    }
    if one.neighbours is not None:
        record |= {"own": one.own, "collaborative": one.collaborative, "remembered": one.remembered}
        record |= {"neighbours": reasons(one.neighbours), "neighbours_rest": one.neighbours_rest}
    return record


def explanation_text(one: Explanation, rank: int, items: Names) -> str:
    """Write an explanation for people."""
    lines = [f"  {rank}. {items.title(one.item)}  {one.score:.4f}"]
    lines.append("     from the items of the user")
    lines += _reason_lines(one.history, one.item, items)
    lines.append(f"       {one.history_rest:+.4f}  the rest of the history")
    if one.own:
        lines.append(f"       {one.own:+.4f}  the user's own embedding")
    if one.neighbours is not None:
        lines.append("     from the neighbours in the item graph")
        lines += _reason_lines(one.neighbours, one.item, items)
        lines.append(f"       {one.neighbours_rest:+.4f}  other neighbours")
        lines.append(f"       {one.collaborative:+.4f}  the item's own buyers")
        if one.remembered:
            lines.append(f"       {one.remembered:+.4f}  items bought together with the history")
    return "\n".join(lines)


def _reason_lines(reasons: list[Reason], item: int, items: Names) -> list[str]:
    lines = []
    for reason in reasons:
        links = f"{', '.join(reason.links) or 'no direct link'}; {reason.shared_users} users have both"
        shown = "itself" if reason.item == item else f"{items.title(reason.item)}  [{links}]"
        lines.append(f"       {reason.part:+.4f}  {shown}")
    return lines


def explanation_lines(
    explainer: Explainer, lists: Iterable[Ranked], names: tuple[Names, Names], form: str
) -> Iterator[str]:
    """Explain every item of every list, as text for people or as JSON lines.

    Args:
        explainer: of the model.
        lists: from :func:`mmtoolkit.recommend.predict.predict`.
        names: ids of users and items.
        form: `text` or `jsonl`.
    """
    users, items = names
    for one in lists:
        if form == "text":
            yield f"{users.title(one.key)}\n"
        for rank, item in enumerate(one.items, start=1):
            explained = explainer.explain(one.key, item)
            if form == "text":
                yield explanation_text(explained, rank, items) + "\n"
            else:
                record = explanation_record(explained, users, items)
                yield json.dumps(record, ensure_ascii=False) + "\n"
