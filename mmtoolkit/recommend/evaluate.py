"""Evaluate a trained run: the function behind `mmtk recommend eval`."""

from dataclasses import dataclass
from pathlib import Path

from mmtoolkit.recommend.evaluation.beyond import item_groups, list_metrics, user_groups
from mmtoolkit.recommend.evaluation.metrics import SplitName, means, rank_split, score_lists
from mmtoolkit.recommend.load import Model, opened


@dataclass(frozen=True)
class Evaluation:
    """How good the lists of one split are.

    Attributes:
        split: `validation` or `test`.
        metrics: accuracy and beyond, by name, such as `recall@20` or `coverage@20`.
        users: metrics for groups of users with similar numbers of training items, by the group's name.
        items: metrics for groups of items with similar numbers of training users, by the group's name.
    """

    split: str
    metrics: dict[str, float]
    users: dict[str, dict[str, float]]
    items: dict[str, dict[str, float]]


def evaluate(model: Model | Path, split: SplitName = "test") -> Evaluation:
    """Rank all items for every user of a split, and compute every metric of this engine.

    Args:
        model: from :func:`mmtoolkit.recommend.load.load`, or the folder of a run.
        split: whose interactions to find.

    Raises:
        CheckpointError: if the folder has no checkpoint, or it was trained on other data.
        DataError: if the data set cannot be read.
    """
    model = opened(model)
    settings, data = model.settings.evaluate, model.data
    lists = rank_split(model.scores, data, split, settings)
    scores = score_lists(lists, settings.top_k)
    cutoff = int(model.settings.train.monitor.partition("@")[2])
    return Evaluation(
        split,
        means(scores) | list_metrics(lists, data, settings.top_k),
        user_groups(scores, data, cutoff),
        item_groups(lists, data, split, cutoff),
    )
