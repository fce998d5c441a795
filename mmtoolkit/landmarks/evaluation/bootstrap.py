"""Comparison of two methods on the same faces by a paired bootstrap."""

from dataclasses import dataclass

import numpy as np

from mmtoolkit.landmarks.evaluation.metrics import ALPHA, Values


@dataclass(frozen=True)
class Comparison:
    """The difference of two methods on the same faces: second minus first.

    Attributes:
        metric: `nme` or `auc`.
        first: its value for the first method.
        second: its value for the second method.
        low: lower end of the 95 % bootstrap interval of the difference.
        high: upper end of that interval.
        p: two-sided p-value, from the share of resamples on the other side of zero.
    """

    metric: str
    first: float
    second: float
    low: float
    high: float
    p: float


def paired_bootstrap(
    first: Values, second: Values, *, alpha: float = ALPHA, resamples: int = 10_000, seed: int = 0
) -> list[Comparison]:
    """Compare two methods by resampling the faces.

    Args:
        first: NME of each face, `(faces,)`, NaN for faces without prediction.
        second: NME of the same faces in the same order.
        alpha: NME of a failure.
        resamples: number of draws of all faces, with replacement.
        seed: seed of the draws.

    Returns:
        The comparisons of `nme`, on the faces that both predict, and of `auc`.
    """
    both = ~(np.isnan(first) | np.isnan(second))
    measures: dict[str, tuple[Values, Values]] = {"nme": (first[both], second[both])}
    filled = [1 - np.minimum(np.nan_to_num(e, nan=np.inf), alpha) / alpha for e in (first, second)]
    measures["auc"] = (filled[0], filled[1])
    return [_bootstrap(name, *values, resamples, seed) for name, values in measures.items() if len(values[0])]


def _bootstrap(metric: str, first: Values, second: Values, resamples: int, seed: int) -> Comparison:
    rng = np.random.default_rng(seed)
    difference = second - first
    n = len(difference)
    block = max(1, 5_000_000 // n)  # bounds the memory of the draws
    draws = [
        difference[rng.integers(n, size=(min(block, resamples - start), n))].mean(1)
        for start in range(0, resamples, block)
    ]
    means = np.concatenate(draws)
    low, high = np.quantile(means, [0.025, 0.975])
    p = 2 * min((means <= 0).mean(), (means >= 0).mean())
    return Comparison(
        metric, float(first.mean()), float(second.mean()), float(low), float(high), float(min(1.0, p))
    )
