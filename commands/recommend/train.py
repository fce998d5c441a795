"""`mmtk recommend train | eval`; the other commands of the group are in the modules beside this one."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .. import options
from ..options import (
    Checkpoint,
    Config,
    Debug,
    Device,
    DryRun,
    Json,
    Output,
    Quiet,
    Resume,
    Seed,
    Set,
    Verbose,
)
from ..output import print_dry_run, print_json, print_table, start_output

if TYPE_CHECKING:
    from mmtoolkit.recommend.config import RecommendSettings

    from ..plan import Plan

app = typer.Typer(
    no_args_is_help=True, help="Multimodal recommendation with a denoised item graph (IGDMRec)."
)

Data = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="Data set folder, or `demo` for the embedded one.",
        rich_help_panel=options.CONFIGURATION,
    ),
]


class Split(StrEnum):
    """Splits to evaluate on."""

    validation = "validation"
    test = "test"


@app.command("train", epilog="Example: mmtk recommend train -c igdmrec --data baby -o runs/baby")
def train(
    config: Config = None,
    assignments: Set = None,
    data: Data = None,
    seed: Seed = None,
    device: Device = None,
    resume: Resume = None,
    dry_run: DryRun = False,
    output: Output = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Train until validation stops improving, then test the best epoch once."""
    start_output(quiet=quiet, verbose=verbose)
    from mmtoolkit.recommend.config import RESUMABLE, RecommendSettings

    from ..plan import command_layers, plan_training

    changes = command_layers(assignments, {"data.path": data, "seed": seed, "device": device})
    plan = plan_training("recommend", RecommendSettings, config, changes, resume, output, RESUMABLE)
    _warn_of_idle_settings(plan)
    if dry_run:
        from mmtoolkit.recommend.train import describe_work

        facts = describe_work(plan.resolved.settings)
        print_dry_run("recommend train", plan.run.path, facts, as_json=as_json)
    else:
        _train(plan, as_json=as_json)


def _warn_of_idle_settings(plan: "Plan[RecommendSettings]") -> None:
    """Tell what was set by hand for a model that does not read it; files may be meant for several."""
    from mmtoolkit.core.logging import logger
    from mmtoolkit.recommend.config import idle_settings

    kind, sources = plan.resolved.settings.model.kind, plan.resolved.sources
    if idle := idle_settings(kind, [name for name, source in sources.items() if source == "--set"]):
        logger.warning("--set %s: without effect, as model.kind is %s", ", ".join(idle), kind)


def _train(plan: "Plan[RecommendSettings]", *, as_json: bool) -> None:
    from mmtoolkit.recommend.report import graph_table, metric_table
    from mmtoolkit.recommend.train import train as train_engine

    result = train_engine(plan.resolved.settings, plan.run, resume=plan.resume)
    path = plan.run.path
    if as_json:
        files = [str(path / name) for name in ("results.json", "report.html", "checkpoints/best")]
        print_json(
            "recommend train",
            run=str(path),
            epochs=result.epochs,
            best_epoch=result.best_epoch,
            metrics=result.test,
            validation=result.validation,
            graphs=result.graphs,
            files=files,
        )
        return
    title = f"Best epoch {result.best_epoch} of {result.epochs}, all items ranked"
    scores = {"validation": result.validation, "test": result.test}
    print_table(title, *metric_table(scores))
    if graphs := graph_table(result.graphs):
        print_table("Item graphs against the true groups", *graphs)
    typer.echo(f"report  {path / 'report.html'}")


@app.command("eval", epilog="Example: mmtk recommend eval --checkpoint runs/baby")
def evaluate(
    checkpoint: Checkpoint,
    split: Annotated[
        Split, typer.Option(help="Which interactions to find.", rich_help_panel=options.RUN)
    ] = Split.test,
    data: Data = None,
    device: Device = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Rank all items for every user and score the lists: accuracy, variety, and groups."""
    start_output(quiet=quiet, verbose=verbose)
    from mmtoolkit.recommend.evaluation.beyond import judge
    from mmtoolkit.recommend.load import load_model
    from mmtoolkit.recommend.report import judgement_tables

    model = load_model(checkpoint, data, device.value if device else "auto")
    found = judge(model, split.value)
    if as_json:
        groups = {"users": found.users, "items": found.items}
        print_json(
            "recommend eval", run=str(checkpoint), split=split.value, metrics=found.metrics, groups=groups
        )
        return
    for title, columns, rows in judgement_tables(found, split.value):
        print_table(f"{model.data.name}: {title}", columns, rows)
