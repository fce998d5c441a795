"""`mmtk recommend compare | study | tune`: what runs say about each other, and which settings are best."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .. import options
from ..options import Config, Debug, Device, DryRun, Json, Quiet, Set, Verbose, parse_numbers
from ..output import print_json, print_table, start_output
from .train import Data, Split

if TYPE_CHECKING:
    from mmtoolkit.core.config import Layer
    from mmtoolkit.recommend.studies.study import Member
    from mmtoolkit.recommend.studies.tune import Space

app = typer.Typer()
study = typer.Typer(no_args_is_help=True, help="Train many runs and say what they show together.")
app.add_typer(study, name="study")

Metric = Annotated[
    list[str] | None,
    typer.Option(
        "--metric",
        metavar="NAME",
        help="Metric such as ndcg@10; may be repeated, the first one orders.",
        rich_help_panel=options.RUN,
    ),
]


@app.command("compare", epilog="Example: mmtk recommend compare runs/recommend/* -o comparison")
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of finished runs.")],
    split: Annotated[Split, typer.Option(help="Which users to compare on.")] = Split.test,
    metrics: Metric = None,
    resamples: Annotated[int, typer.Option(help="Bootstrap samples of the users.", min=100)] = 2000,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FOLDER", help="Write comparison.json, .md and .png there."),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Compare runs: means over seeds, and paired bootstrap over users."""
    start_output(quiet=quiet, verbose=verbose)
    from rich.markup import escape

    from mmtoolkit.recommend.compare import compare as compare_runs
    from mmtoolkit.recommend.studies.plots import comparison_table, write_comparison

    found = compare_runs(runs, split.value, metrics or (), resamples)
    files = [str(file) for file in write_comparison(found, output)] if output else []
    if as_json:
        print_json("recommend compare", **found.as_json(), files=files)
        return
    title = f"{found.users:,} users of the {found.split} split; p by paired bootstrap against the best"
    print_table(title, *comparison_table(found, lambda cell: f"[bold]{cell}[/bold]", escape))
    for file in files:
        typer.echo(file, err=True)


Folder = Annotated[
    Path,
    typer.Option(
        "--output",
        "-o",
        metavar="FOLDER",
        help="The study's folder; given again, it goes on where it stopped.",
        rich_help_panel=options.OUTPUT,
    ),
]
Seeds = Annotated[
    int, typer.Option(help="Train every member with seeds 0 to N-1.", min=1, rich_help_panel=options.RUN)
]
Jobs = Annotated[
    int,
    typer.Option(help="Members trained at once; they share the threads.", min=1, rich_help_panel=options.RUN),
]


def _base(
    config: str | None, assignments: list[str] | None, data: Path | None, device: options.DeviceChoice | None
) -> "tuple[list[Layer], list[Layer]]":
    """Return the layers of the preset, and those of what is changed on the command line."""
    from mmtoolkit.core.config import config_layer

    from ..plan import command_layers

    changes = command_layers(assignments, {"data.path": data, "device": device})
    return [config_layer("recommend", config)] if config else [], changes


def _print_plan(command: str, members: "Sequence[Member]", *, as_json: bool) -> None:
    done = sum(member.finished for member in members)
    if as_json:
        planned = [{"label": m.label, "run": str(m.path), "finished": m.finished} for m in members]
        print_json(command, dry_run=True, members=planned)
        return
    rows = [[m.label, str(m.path), "finished" if m.finished else "to train"] for m in members]
    print_table(f"{len(members)} members, {done} finished", ["member", "run", ""], rows)


def _print_space(space: "Space", *, as_json: bool) -> None:
    searched = {name: repr(values) for name, values in space.items()}
    if as_json:
        print_json("recommend tune", dry_run=True, space=searched)
    else:
        print_table("To search", ["setting", "values"], [[name, text] for name, text in searched.items()])


@study.command("ablation", epilog="Example: mmtk recommend study ablation -c igdmrec --data baby -o ablation")
def ablation(
    output: Folder,
    config: Config = None,
    assignments: Set = None,
    data: Data = None,
    device: Device = None,
    seeds: Seeds = 3,
    jobs: Jobs = 1,
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Take one part after the other away from IGDMRec and say what each was worth."""
    start_output(quiet=quiet, verbose=verbose)
    from rich.markup import escape

    from mmtoolkit.recommend.studies import study as engine
    from mmtoolkit.recommend.studies.plots import comparison_table

    base, changes = _base(config, assignments, data, device)
    members = engine.plan_ablation([*base, *changes], output, seeds)
    if dry_run:
        _print_plan("recommend study ablation", members, as_json=as_json)
        return
    engine.run_members(members, jobs)
    found, files = engine.judge_ablation(members, output)
    if as_json:
        print_json("recommend study ablation", **found.as_json(), files=[str(file) for file in files])
        return
    table = comparison_table(found, lambda cell: f"[bold]{cell}[/bold]", escape, engine.FULL)
    print_table("Ablation, test split; p by paired bootstrap over users", *table)


@study.command("robustness", epilog="Example: mmtk recommend study robustness --data demo -o robustness")
def robustness(
    output: Folder,
    config: Config = "igdmrec",
    assignments: Set = None,
    data: Data = None,
    device: Device = None,
    links: Annotated[
        str, typer.Option(help="Shares of false links in the item graph.", rich_help_panel=options.RUN)
    ] = "0.1,0.2,0.3,0.4,0.5",
    noise: Annotated[
        str,
        typer.Option(help="Feature noise, in deviations; only with features.", rich_help_panel=options.RUN),
    ] = "0.5,1,2",
    seeds: Seeds = 3,
    jobs: Jobs = 1,
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Train on false links and noisy features, beside FREEDOM and LightGCN."""
    start_output(quiet=quiet, verbose=verbose)
    from mmtoolkit.recommend.studies import study as engine

    base, changes = _base(config, assignments, data, device)
    amounts = zip(
        engine.SPOILT, (parse_numbers("--links", links), parse_numbers("--noise", noise)), strict=True
    )
    possible = engine.spoilable([*base, *changes])
    levels = {what: values for what, values in amounts if what in possible}
    members = engine.plan_robustness(base, changes, output, seeds, levels)
    if dry_run:
        _print_plan("recommend study robustness", members, as_json=as_json)
        return
    engine.run_members(members, jobs)
    metric, rows, files = engine.judge_robustness(members, output)
    if as_json:
        found = [vars(row) for row in rows]
        print_json("recommend study robustness", metric=metric, rows=found, files=[str(f) for f in files])
        return
    print_table("Robustness, test split", *engine.robustness_table(rows, metric))


@study.command("scaling", epilog="Example: mmtk recommend study scaling -s diffusion.hidden=256 -o scaling")
def scaling(
    output: Folder,
    config: Config = None,
    assignments: Set = None,
    device: Device = None,
    items: Annotated[
        str, typer.Option(help="Numbers of items, at the first number of users.", rich_help_panel=options.RUN)
    ] = "2000,4000,8000,16000",
    users: Annotated[
        str, typer.Option(help="Numbers of users, at the first number of items.", rich_help_panel=options.RUN)
    ] = "2000,4000,8000,16000",
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Measure what an epoch costs as items and users grow, on drawn data, and fit exponents."""
    start_output(quiet=quiet, verbose=verbose)
    from mmtoolkit.core.config import resolve
    from mmtoolkit.recommend.config import RecommendSettings
    from mmtoolkit.recommend.studies import scaling as engine

    base, changes = _base(config, assignments, None, device)
    settings = resolve(RecommendSettings, [*base, *changes]).settings
    counts = (
        parse_numbers(name, text, whole=True) for name, text in (("--items", items), ("--users", users))
    )
    sizes = engine.plan_scaling(settings, output, *counts)
    engine.run_scaling(sizes)
    costs, exponents, files = engine.judge_scaling(sizes, output)
    if as_json:
        found = [vars(cost) for cost in costs]
        print_json("recommend study scaling", costs=found, exponents=exponents, files=[str(f) for f in files])
        return
    print_table("Seconds and memory of an epoch", *engine.cost_table(costs))
    print_table("Cost grows as size to the power of", *engine.exponent_table(exponents))


@app.command("tune", epilog="Example: mmtk recommend tune -c freedom --data baby -o tuned --trials 30")
def tune(
    output: Folder,
    config: Config = None,
    assignments: Set = None,
    data: Data = None,
    device: Device = None,
    search: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=LOW:HIGH[:log]|a|b",
            help="Search this setting instead of the usual ones; may be repeated.",
            rich_help_panel=options.CONFIGURATION,
        ),
    ] = None,
    trials: Annotated[int, typer.Option(help="Trials in all.", min=1, rich_help_panel=options.RUN)] = 30,
    minutes: Annotated[
        float | None, typer.Option(help="Stop after so many.", min=0, rich_help_panel=options.RUN)
    ] = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Search for better settings on validation alone, and write them as a preset."""
    start_output(quiet=quiet, verbose=verbose)
    from mmtoolkit.recommend.studies import tune as engine

    base, changes = _base(config, assignments, data, device)
    layers, wanted = [*base, *changes], search or []
    if dry_run:
        _print_space(engine.plan_tune(layers, wanted)[1], as_json=as_json)
        return
    found = engine.tune(layers, wanted, output, trials, minutes)
    files = [str(file) for file in found.files]
    if as_json:
        metrics = {found.metric: found.best}
        print_json("recommend tune", metrics=metrics, values=found.values, trials=found.trials, files=files)
        return
    rows = [[name, str(value)] for name, value in found.values.items()]
    print_table(f"Validation {found.metric} {found.best:.4f}", ["setting", "best"], rows)
    typer.echo(f"preset  {files[0]}")
