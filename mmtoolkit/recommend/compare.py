"""Compare runs on one data set: the function behind `mmtk recommend compare`.

Means and standard deviations over seeds, and a paired bootstrap over users.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmtoolkit.core.arrays import read_npz
from mmtoolkit.core.checkpoint import load_checkpoint
from mmtoolkit.core.config import config_layer, flatten, resolve
from mmtoolkit.core.errors import CheckpointError, UsageError
from mmtoolkit.core.logging import logger
from mmtoolkit.core.run import BEST, RunDirectory
from mmtoolkit.recommend.config import RecommendSettings
from mmtoolkit.recommend.evaluation.metrics import SplitName, score_users
from mmtoolkit.recommend.load import load

METRICS = ("recall@20", "ndcg@20", "recall@10", "ndcg@10")
"""Default metrics of a comparison."""
SAME_MODEL = ("seed", "device", "data.path", "train.checkpoint_every")
"""Settings in which runs of one group may differ."""
BLOCK_RESAMPLES = 200
"""Bootstrap samples that are drawn at once."""

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class ScoredRun:
    """One run and its metrics for each user, `(users,)` by name.

    Attributes:
        path: the run's folder.
        settings: by dotted name, without :data:`SAME_MODEL`.
        data: fingerprint of the interactions.
        users: ids of the users, `(users,)`.
        scores: metrics by name.
    """

    path: Path
    settings: Mapping[str, Any]
    data: str
    users: NDArray[np.int64]
    scores: Mapping[str, FloatArray]


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seed alone.

    Attributes:
        label: name of the model, and the settings in which it differs from other groups.
        runs: their folders.
        mean: metrics averaged over users and runs.
        deviation: standard deviation over the runs; None for a single run.
        interval: 95 % bootstrap interval of each mean over users.
    """

    label: str
    runs: list[str]
    mean: dict[str, float]
    deviation: dict[str, float | None]
    interval: dict[str, tuple[float, float]]


@dataclass(frozen=True)
class Pair:
    """The difference of two groups in one metric, from the same resampled users for both.

    Attributes:
        better: label of the group with the larger mean.
        worse: label of the other.
        metric: its name.
        difference: of the means, at least 0.
        interval: 95 % bootstrap interval of the difference.
        p_value: two-sided, for no difference.
    """

    better: str
    worse: str
    metric: str
    difference: float
    interval: tuple[float, float]
    p_value: float


@dataclass(frozen=True)
class Comparison:
    """Groups of runs and all pairs of groups.

    Attributes:
        split: on which the runs are compared.
        users: number of users.
        metrics: their names.
        groups: the best first, by the first metric.
        pairs: each pair of groups and metric.
    """

    split: str
    users: int
    metrics: list[str]
    groups: list[Group]
    pairs: list[Pair]

    def as_json(self) -> dict[str, Any]:
        """Return plain types."""
        return asdict(self)


def compare(
    runs: Sequence[Path],
    split: SplitName = "test",
    metrics: Sequence[str] = (),
    resamples: int = 2000,
    seed: int = 0,
    labels: Mapping[Path, str] | None = None,
) -> Comparison:
    """Compare runs on the users of a split.

    Runs that differ only in their seed form a group, and the score of a user is the mean over its runs. The
    bootstrap draws the same users for every group (Efron and Tibshirani 1993, ch. 16). Its interval covers
    the choice of users; the deviation over seeds covers training.

    Args:
        runs: folders of at least two finished runs.
        split: `validation` or `test`.
        metrics: names such as `recall@20`; the first one orders the groups; default: :data:`METRICS`.
        resamples: number of bootstrap samples.
        seed: of the resampling.
        labels: name of the group of each run; default: runs are grouped by their settings.

    Raises:
        UsageError: if the runs have different data or settings of evaluation, or lack a metric.
        CheckpointError: if a folder holds no run.
    """
    scored = [score_run(path, split) for path in dict.fromkeys(runs)]
    _check_together(scored)
    names = _common_metrics(scored, metrics)
    groups = group_runs(scored, labels)
    # (groups, metrics, users): a user's score in a group is the mean over the group's runs
    values = np.array(
        [[np.mean([run.scores[m] for run in group], axis=0) for m in names] for group in groups.values()]
    )
    means = bootstrap_means(values, resamples, seed)
    described = [
        _describe_group(label, group, names, means[:, index])
        for index, (label, group) in enumerate(groups.items())
    ]
    order = sorted(range(len(groups)), key=lambda g: -values[g, 0].mean())
    pairs = [
        _pair(described, values.mean(axis=2), means, a, b, m, name)
        for a, b in combinations(order, 2)
        for m, name in enumerate(names)
    ]
    return Comparison(split, values.shape[2], names, [described[g] for g in order], pairs)


def score_run(path: Path, split: SplitName) -> ScoredRun:
    """Read each user's metrics of a run, or rank again if the run has no file of them."""
    run = RunDirectory.open(path)
    checkpoint = run.checkpoint(BEST)
    settings = resolve(RecommendSettings, [config_layer("recommend", str(run.config_path))]).settings
    stored = path / f"users_{split}.npz"
    if stored.is_file():
        try:
            scores = {name: values.astype(np.float64) for name, values in read_npz(stored).items()}
        except ValueError:
            raise CheckpointError(f"{stored}: damaged; delete it, and the split is ranked again") from None
    else:
        logger.info("%s: ranking the %s split again", path, split)
        model = load(path)
        scores = score_users(model.scores, model.data, split, settings.evaluate)
    users = scores.pop("user").astype(np.int64)
    flat = {k: v for k, v in flatten(settings.model_dump(mode="json")) if k not in SAME_MODEL}
    meta = load_checkpoint(checkpoint, state=False).meta
    return ScoredRun(path, flat, meta["data"], users, scores)


def _check_together(runs: Sequence[ScoredRun]) -> None:
    if len(runs) < 2:
        raise UsageError("compare needs at least two runs; name their folders")
    first = runs[0]
    for other in runs[1:]:
        if other.data != first.data or not np.array_equal(other.users, first.users):
            raise UsageError(
                f"{other.path}: trained on other interactions than {first.path}; compare runs on one data set"
            )
        if other.settings["evaluate.mask_validation"] != first.settings["evaluate.mask_validation"]:
            raise UsageError(f"{other.path} and {first.path} differ in evaluate.mask_validation")


def _common_metrics(runs: Sequence[ScoredRun], wanted: Sequence[str]) -> list[str]:
    common = [name for name in runs[0].scores if all(name in run.scores for run in runs)]
    for name in wanted:
        if name not in common:
            raise UsageError(f"`metric` {name}: not measured by every run; they share {', '.join(common)}")
    names = list(wanted) or [name for name in METRICS if name in common]
    return names or common[:4]


def group_runs(
    runs: Sequence[ScoredRun], labels: Mapping[Path, str] | None = None
) -> dict[str, list[ScoredRun]]:
    """Group runs that differ only in their seed, by a label that is unique to the group."""
    groups: dict[str, list[ScoredRun]] = {}
    for run in runs:
        key = labels[run.path] if labels else repr(sorted(run.settings.items()))
        groups.setdefault(key, []).append(run)
    return groups if labels else {_label(group[0], groups.values()): group for group in groups.values()}


def _label(run: ScoredRun, groups: Iterable[Sequence[ScoredRun]]) -> str:
    """Name a group by its model and, if several groups have that model, by the settings that differ."""
    kind = run.settings["model.kind"]
    same = [group[0].settings for group in groups if group[0].settings["model.kind"] == kind]
    return f"{kind} ({_differences(run.settings, same)})" if len(same) > 1 else str(kind)


def _differences(settings: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> str:
    """List the settings, with their values, in which the groups of a model differ."""
    names = sorted({name for other in others for name in other})
    varied = [n for n in names if len({repr(other.get(n)) for other in others}) > 1]
    return ", ".join(f"{name}={settings[name]}" for name in varied if name in settings)


def bootstrap_means(values: FloatArray, resamples: int, seed: int) -> FloatArray:
    """Average over users drawn with replacement, with the same draws for all groups and metrics.

    Args:
        values: `(groups, metrics, users)`.
        resamples: number of draws.
        seed: of the draws.

    Returns:
        `(resamples, groups, metrics)`.
    """
    rng = np.random.default_rng(seed)
    users = values.shape[2]
    flat = values.reshape(-1, users).T
    parts = []
    for start in range(0, resamples, BLOCK_RESAMPLES):
        block = min(BLOCK_RESAMPLES, resamples - start)
        # a draw with replacement is a count per user, so that one product averages all groups and metrics
        drawn = rng.integers(0, users, (block, users)) + users * np.arange(block)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=block * users).reshape(block, users)
        parts.append(counts.astype(np.float64) @ flat / users)
    return np.concatenate(parts).reshape(resamples, *values.shape[:2])


def _interval(samples: FloatArray) -> tuple[float, float]:
    low, high = np.quantile(samples, [0.025, 0.975])
    return float(low), float(high)


def _describe_group(label: str, runs: Sequence[ScoredRun], names: Sequence[str], means: FloatArray) -> Group:
    by_run = {name: np.array([run.scores[name].mean() for run in runs]) for name in names}
    return Group(
        label,
        [str(run.path) for run in runs],
        {name: float(values.mean()) for name, values in by_run.items()},
        {name: float(v.std(ddof=1)) if len(v) > 1 else None for name, v in by_run.items()},
        {name: _interval(means[:, index]) for index, name in enumerate(names)},
    )


def _pair(
    groups: Sequence[Group], values: FloatArray, means: FloatArray, a: int, b: int, m: int, name: str
) -> Pair:
    """Compare groups a and b in metric m; `values` are `(groups, metrics)`."""
    if values[b, m] > values[a, m]:
        a, b = b, a
    samples = means[:, a, m] - means[:, b, m]
    against = min((samples <= 0).sum(), (samples >= 0).sum())
    p_value = min(1.0, 2 * (int(against) + 1) / (len(samples) + 1))
    difference = float(values[a, m] - values[b, m])
    return Pair(groups[a].label, groups[b].label, name, difference, _interval(samples), p_value)
