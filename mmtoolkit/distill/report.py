"""Results of the engine, and the report that a training run leaves behind."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

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
        parameters: numbers that train.
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


@dataclass(frozen=True)
class Cell:
    """One setting of the sampler and what was measured there.

    Attributes:
        steps: network calls of the student.
        eta: stochastic offset.
        guidance: in teacher units.
        metrics: `fid` and `kid` to the teacher's samples, `fid_data` to the data, `precision` and `recall`
            against the data, `trajectory_error`, `seconds_picture`; `clip_score` where a CLIP is named.
    """

    steps: int
    eta: float
    guidance: float
    metrics: dict[str, float]


@dataclass(frozen=True)
class Evaluation:
    """What was measured of a student.

    Attributes:
        cells: one for each steps, eta and guidance.
        teacher: `fid_data`, `precision`, `recall` (and `clip_score`) of the teacher itself, by guidance in
            teacher units.
        pictures: some pictures of the teacher and of each cell with eta 0, for looking at, by title.
    """

    cells: list[Cell]
    teacher: dict[float, dict[str, float]]
    pictures: dict[str, Tensor]


def write_train_report(run: RunDirectory, settings: DistillSettings, result: TrainResult) -> None:
    """Draw plots/*.png from metrics.jsonl and write report.html with the last grid of samples."""
    plots = draw_curves(run, {"loss": ["loss"], "gap to the teacher": sorted(result.gaps)}, x="step")
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
    table = (["steps", "mean squared distance"], rows)
    tables = {"Distance to the teacher's 50-step samples": table}
    write_run_report(run, "distill", facts, tables, [*plots, *grids])


def cell_table(cells: list[Cell]) -> tuple[list[str], list[list[str]]]:
    """Arrange cells as rows of a table."""
    names = list(cells[0].metrics)
    rows = [
        [str(cell.steps), f"{cell.eta:g}", f"{cell.guidance:g}", *(_number(cell.metrics[n]) for n in names)]
        for cell in cells
    ]
    return ["steps", "eta", "guidance", *names], rows


def teacher_table(teacher: Mapping[float, Mapping[str, float]]) -> tuple[list[str], list[list[str]]]:
    """Arrange what was measured of the teacher, a row for each guidance."""
    names = list(next(iter(teacher.values())))
    rows = [[f"{g:g}", *(_number(found[name]) for name in names)] for g, found in teacher.items()]
    return ["guidance", *names], rows


def _number(value: float) -> str:
    return f"{value:.4f}" if abs(value) < 100 else f"{value:.1f}"


def flat_metrics(found: Evaluation) -> dict[str, float]:
    """Name every number for --json, as `fid@4,eta=0,guidance=2` or `teacher,fid_data@guidance=2`."""
    flat = {name: value for cell in found.cells for name, value in flat_cell(cell).items()}
    for guidance, metrics in found.teacher.items():
        flat |= {f"teacher,{name}@guidance={guidance:g}": value for name, value in metrics.items()}
    return flat


def flat_cell(cell: Cell) -> dict[str, float]:
    """Name the numbers of a cell."""
    setting = f"{cell.steps},eta={cell.eta:g},guidance={cell.guidance:g}"
    return {f"{name}@{setting}": value for name, value in cell.metrics.items()}
