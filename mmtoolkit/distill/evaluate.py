"""Measure a student by steps, eta and guidance: the function behind `mmtk distill eval`."""

from collections.abc import Sequence
from pathlib import Path

from mmtoolkit.core.config import Layer, config_layer, flatten, resolve
from mmtoolkit.core.errors import UsageError
from mmtoolkit.core.fields import DeviceName
from mmtoolkit.core.run import RunDirectory
from mmtoolkit.distill.config import DistillSettings
from mmtoolkit.distill.evaluation.judge import FEATURES_FILE, judge, make_bench
from mmtoolkit.distill.load import TrainedRun, load_run
from mmtoolkit.distill.report import Evaluation


def evaluate(
    checkpoint: str | Path | TrainedRun, changes: Sequence[Layer] = (), device: DeviceName | None = None
) -> Evaluation:
    """Measure the student of a run against its teacher and the data.

    Args:
        checkpoint: folder of a run of `distill train`, or an opened one (then without the other arguments).
        changes: of the run's `evaluate` settings.
        device: where to compute, if not as the run did.

    Returns:
        What was measured at every setting of the sampler.

    Raises:
        CheckpointError: if there is no such run, or its base is gone.
        UsageError: if another setting is to change.
    """
    student = (
        checkpoint if isinstance(checkpoint, TrainedRun) else open_run(Path(checkpoint), changes, device)
    )
    return judge(student, make_bench(student, student.path / FEATURES_FILE))


def open_run(checkpoint: Path, changes: Sequence[Layer] = (), device: DeviceName | None = None) -> TrainedRun:
    """Open the student of a run for :func:`evaluate`, which describes the arguments."""
    run = RunDirectory.open(checkpoint)
    names = [name for layer in changes for name, _ in flatten(layer.values)]
    if others := [name for name in names if not name.startswith("evaluate.")]:
        raise UsageError(f"{others[0]}: only evaluate.* can change after training")
    layers = [config_layer("distill", str(run.config_path)), *changes]
    if device:
        layers.append(Layer("`device`", {"device": device}))
    return load_run(run, resolve(DistillSettings, layers).settings)
