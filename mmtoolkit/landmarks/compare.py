"""The function behind `mmtk landmarks compare`: whether two methods differ on the same faces."""

from pathlib import Path

from mmtoolkit.landmarks.evaluate import Source, labelled_faces, open_source, predictions_of
from mmtoolkit.landmarks.evaluation.bootstrap import Comparison, paired_bootstrap
from mmtoolkit.landmarks.evaluation.metrics import ALPHA, score_faces


def compare(
    first: Source,
    second: Source,
    data: Path | None = None,
    *,
    alpha: float = ALPHA,
    seed: int = 0,
) -> list[Comparison]:
    """Compare two networks or sets of predictions on a data set by a paired bootstrap over faces.

    Args:
        first: a network or predictions, see :data:`mmtoolkit.landmarks.evaluate.Source`.
        second: what to compare it with.
        data: data set; None renders one, as in :func:`mmtoolkit.landmarks.evaluate.evaluate`.
        alpha: NME of a failure.
        seed: seed of the bootstrap.

    Raises:
        DataError: if data or predictions cannot be used.
        UsageError: if ready predictions come without their data set.
    """
    sources = [open_source(source, data, alpha) for source in (first, second)]
    with labelled_faces(data) as truths:
        errors = [score_faces(truths, predictions_of(one, truths), alpha=alpha).errors for one in sources]
    return paired_bootstrap(errors[0], errors[1], alpha=alpha, seed=seed)
