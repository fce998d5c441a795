"""Results of training and teaching, and the report that a training run leaves behind."""

from dataclasses import dataclass

from mmtoolkit.core.report import draw_curves, write_run_report
from mmtoolkit.core.run import RunDirectory
from mmtoolkit.distill.config import DistillSettings


@dataclass(frozen=True)
class TrainResult:
    """What a finished student measured.

    Attributes:
        steps: optimizer steps.
        loss: mean of the last 100 steps.
        gaps: mean squared distance of the samples to the teacher's 50-step ones, as `gap@4`.
        seconds: of training, in this process.
        parameters: number of trained weights.
    """

    steps: int
    loss: float
    gaps: dict[str, float]
    seconds: float
    parameters: int


@dataclass(frozen=True)
class TeachResult:
    """What a finished teacher measured.

    Attributes:
        steps: optimizer steps.
        loss: mean squared error of the last 100 steps.
        seconds: of training, in this process.
        parameters: number of weights.
    """

    steps: int
    loss: float
    seconds: float
    parameters: int


def write_train_report(run: RunDirectory, settings: DistillSettings, result: TrainResult) -> None:
    """Draw plots/*.png from metrics.jsonl and write report.html with the last grid of samples."""
    curves = {"loss": ["loss"], "gap to the teacher": sorted(result.gaps)}
    grids = sorted((run.path / "samples").glob("*.png"))[-1:]
    facts = {
        "student": f"{settings.model.family} {settings.model.base}, {settings.model.adapter}",
        "rule": settings.targets.rule,
        "guidance": f"w {settings.targets.guidance:g}, rho {settings.targets.drop:g}",
        "steps": f"{result.steps:,} of {settings.train.batch_size} pictures",
        "seconds": f"{result.seconds:.0f}",
        "trained weights": f"{result.parameters:,}",
    }
    rows = [[name, f"{value:.4f}"] for name, value in result.gaps.items()]
    tables = {"Distance to the teacher's 50-step samples": (["steps", "mean squared distance"], rows)}
    write_run_report(run, "distill", facts, tables, [*draw_curves(run, curves, x="step"), *grids])
