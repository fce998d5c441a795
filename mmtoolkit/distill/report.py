"""The pictures and the page that a training run leaves behind."""

import json
from typing import TYPE_CHECKING

from mmtoolkit.core.plots import plot_curves
from mmtoolkit.core.report import write_report
from mmtoolkit.core.run import RunDirectory
from mmtoolkit.distill.config import DistillSettings

if TYPE_CHECKING:
    from mmtoolkit.distill.train import TrainResult


def write_train_report(run: RunDirectory, settings: DistillSettings, result: "TrainResult") -> None:
    """Draw plots/*.png from metrics.jsonl and write report.html with the last grid of samples."""
    records = run.read_metrics()
    pictures = {"loss": ["loss"], "gap to the teacher": sorted(result.gaps)}
    drawn = [
        plot_curves(records, names, run.path / "plots" / f"{title.split()[0]}.png", x="step", title=title)
        for title, names in pictures.items()
    ]
    grids = sorted((run.path / "samples").glob("*.png"))[-1:]
    environment = json.loads((run.path / "env.json").read_text(encoding="utf-8"))
    about = {
        "student": f"{settings.model.family} {settings.model.base}, {settings.model.adapter}",
        "rule": settings.targets.rule,
        "guidance": f"w {settings.targets.guidance:g}, rho {settings.targets.drop:g}",
        "steps": f"{result.steps:,} of {settings.train.batch_size} pictures",
        "seconds": f"{result.seconds:.0f}",
        "numbers that train": f"{result.parameters:,}",
        "machine": f"{environment['cpu']}, {environment['cores']} cores",
    }
    rows = [[name, f"{value:.4f}"] for name, value in result.gaps.items()]
    write_report(
        run.path / "report.html",
        f"distill: {run.path.name}",
        about,
        {"Distance to the teacher's 50-step samples": (["steps", "mean squared distance"], rows)},
        [*(picture for picture in drawn if picture), *grids],
        run.config_path.read_text(encoding="utf-8"),
    )
