"""`mmtk recommend train | eval | compare`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .. import options as opt
from ..command import Answer, command, planned
from ..output import Table
from .options import Data, Split

if TYPE_CHECKING:
    from mmtoolkit.recommend import TrainResult

app = typer.Typer()

EvaluatedSplit = Annotated[Split, typer.Option(help="Which interactions to find.", rich_help_panel=opt.RUN)]
Runs = Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of finished runs.")]
Metrics = Annotated[
    list[str] | None,
    typer.Option(
        "--metric",
        metavar="NAME",
        help="Metric such as ndcg@10; may be repeated, the first one orders the rows.",
        rich_help_panel=opt.RUN,
    ),
]
Comparison = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="FOLDER", help="Write comparison.json, .md and .png there."),
]


@command(app, "recommend train", example="mmtk recommend train -c igdmrec --data baby -o runs/baby")
def train(
    config: opt.Config = None,
    assignments: opt.Set = None,
    data: Data = None,
    seed: opt.Seed = None,
    device: opt.Device = None,
    resume: opt.Resume = None,
    dry_run: opt.DryRun = False,
    output: opt.Output = None,
) -> Answer:
    """Train until validation stops improving, then test the best epoch once."""
    from mmtoolkit.recommend import train as engine
    from mmtoolkit.recommend.config import READ_BY, RESUMABLE, RecommendSettings
    from mmtoolkit.recommend.train import describe_work

    from ..plan import command_layers, plan_training, warn_of_idle_settings

    changes = command_layers(assignments, {"data.path": data, "seed": seed, "device": device})
    plan = plan_training("recommend", RecommendSettings, config, changes, resume, output, RESUMABLE)
    warn_of_idle_settings(plan.resolved, READ_BY, "train")
    if dry_run:
        return planned(plan.run.path, describe_work(plan.resolved.settings))
    return _trained(plan.run.path, engine(plan.resolved.settings, plan.run, resume=plan.resume))


def _trained(path: Path, result: "TrainResult") -> Answer:
    from mmtoolkit.recommend.report import graph_table, metric_table

    content = {
        "run": str(path),
        "epochs": result.epochs,
        "best_epoch": result.best_epoch,
        "metrics": result.test,
        "validation": result.validation,
        "graphs": result.graphs,
        "files": [str(path / name) for name in ("results.json", "report.html", "checkpoints/best")],
    }
    title = f"Best epoch {result.best_epoch} of {result.epochs}, all items ranked"
    tables = [Table(title, *metric_table({"validation": result.validation, "test": result.test}))]
    if graphs := graph_table(result.graphs):
        tables.append(Table("Item graphs and the known groups", *graphs))
    return Answer(content, [*tables, f"report  {path / 'report.html'}"])


@command(app, "recommend eval", example="mmtk recommend eval --checkpoint runs/baby")
def evaluate(
    checkpoint: opt.Checkpoint,
    split: EvaluatedSplit = Split.test,
    data: Data = None,
    device: opt.Device = None,
) -> Answer:
    """Rank all items for every user, and measure the lists: accuracy, variety, and groups."""
    from mmtoolkit.recommend import evaluate as engine
    from mmtoolkit.recommend import load
    from mmtoolkit.recommend.report import evaluation_tables

    model = load(checkpoint, data, device.value if device else "auto")
    found = engine(model, split.value)
    groups = {"users": found.users, "items": found.items}
    content = {"run": str(checkpoint), "split": split.value, "metrics": found.metrics, "groups": groups}
    tables = evaluation_tables(found).items()
    return Answer(content, [Table(f"{model.data.name}: {title}", *table) for title, table in tables])


@command(app, "recommend compare", example="mmtk recommend compare runs/recommend/* -o comparison")
def compare(
    runs: Runs,
    split: Annotated[Split, typer.Option(help="Which users to compare on.")] = Split.test,
    metrics: Metrics = None,
    resamples: Annotated[int, typer.Option(help="Bootstrap samples of the users.", min=100)] = 2000,
    output: Comparison = None,
) -> Answer:
    """Compare runs: means over seeds, and paired bootstrap over users."""
    from rich.markup import escape

    from mmtoolkit.recommend import compare as engine
    from mmtoolkit.recommend.studies.plots import comparison_table, write_comparison

    found = engine(runs, split.value, metrics or (), resamples)
    files = [str(file) for file in write_comparison(found, output)] if output else []
    title = f"{found.users:,} users of the {found.split} split; p by paired bootstrap against the best"
    table = Table(title, *comparison_table(found, lambda cell: f"[bold]{cell}[/bold]", escape))
    return Answer({**found.as_json(), "files": files}, [table, *files])
