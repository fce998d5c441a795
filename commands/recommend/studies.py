"""`mmtk recommend study ablation | robustness | scaling` and `mmtk recommend tune`: many runs together."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .. import options as opt
from ..command import Answer, command
from ..options import parse_numbers
from ..output import Table
from .options import Data

if TYPE_CHECKING:
    from mmtoolkit.core.config import Layer, Resolved
    from mmtoolkit.recommend import RecommendSettings
    from mmtoolkit.recommend.studies.study import Member
    from mmtoolkit.recommend.studies.tune import TuneResult

app = typer.Typer()
study = typer.Typer(no_args_is_help=True, help="Train many runs and compare them.")
app.add_typer(study, name="study")

Folder = Annotated[
    Path,
    typer.Option(
        "--output",
        "-o",
        metavar="FOLDER",
        help="The study's folder; the same command continues a stopped study.",
        rich_help_panel=opt.OUTPUT,
    ),
]
Seeds = Annotated[
    int, typer.Option(help="Train every member with seeds 0 to N-1.", min=1, rich_help_panel=opt.RUN)
]
Jobs = Annotated[
    int, typer.Option(help="Members trained at once; they share the threads.", min=1, rich_help_panel=opt.RUN)
]
Search = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY=LOW:HIGH[:log]|a|b",
        help="Search this setting instead of the default ones; may be repeated.",
        rich_help_panel=opt.CONFIGURATION,
    ),
]
Minutes = Annotated[float | None, typer.Option(help="Stop after this time.", min=0, rich_help_panel=opt.RUN)]


def _sizes(help_text: str) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(help=help_text, rich_help_panel=opt.RUN)
    return option


Links = Annotated[str, _sizes("Fractions of false links in the item graph.")]
Noise = Annotated[str, _sizes("Feature noise, in standard deviations; needs features.")]
Items = Annotated[str, _sizes("Numbers of items, at the first number of users.")]
Users = Annotated[str, _sizes("Numbers of users, at the first number of items.")]


@command(
    study,
    "recommend study ablation",
    example="mmtk recommend study ablation -c igdmrec --data baby -o ablation",
)
def ablation(
    output: Folder,
    config: opt.Config = None,
    assignments: opt.Set = None,
    data: Data = None,
    device: opt.Device = None,
    seeds: Seeds = 3,
    jobs: Jobs = 1,
    dry_run: opt.DryRun = False,
) -> Answer:
    """Remove one part of IGDMRec after the other, and measure what each was worth."""
    from rich.markup import escape

    from mmtoolkit.recommend.studies import study as engine
    from mmtoolkit.recommend.studies.plots import comparison_table

    base, changes = _layers(config, assignments, data, device)
    members = engine.plan_ablation([*base, *changes], output, seeds)
    if stopped := _planned(members, dry_run=dry_run):
        return stopped
    engine.run_members(members, jobs)
    found, files = engine.report_ablation(members, output)
    table = comparison_table(found, lambda cell: f"[bold]{cell}[/bold]", escape, engine.FULL)
    title = "Ablation, test split; p by paired bootstrap over users"
    return Answer({**found.as_json(), "files": [str(file) for file in files]}, [Table(title, *table)])


@command(
    study, "recommend study robustness", example="mmtk recommend study robustness --data demo -o robustness"
)
def robustness(
    output: Folder,
    config: opt.Config = "igdmrec",
    assignments: opt.Set = None,
    data: Data = None,
    device: opt.Device = None,
    links: Links = "0.1,0.2,0.3,0.4,0.5",
    noise: Noise = "0.5,1,2",
    seeds: Seeds = 3,
    jobs: Jobs = 1,
    dry_run: opt.DryRun = False,
) -> Answer:
    """Train with false links and noisy features, and compare with FREEDOM and LightGCN."""
    from mmtoolkit.recommend.studies import study as engine

    base, changes = _layers(config, assignments, data, device)
    amounts = [parse_numbers("--links", links), parse_numbers("--noise", noise)]
    levels = dict(zip(engine.possible_noise([*base, *changes]), amounts, strict=False))
    members = engine.plan_robustness(base, changes, output, seeds, levels)
    if stopped := _planned(members, dry_run=dry_run):
        return stopped
    engine.run_members(members, jobs)
    metric, rows, files = engine.report_robustness(members, output)
    content = {"metric": metric, "rows": [vars(row) for row in rows], "files": [str(f) for f in files]}
    return Answer(content, [Table("Robustness, test split", *engine.robustness_table(rows, metric))])


@command(
    study,
    "recommend study scaling",
    example="mmtk recommend study scaling -s diffusion.hidden=256 -o scaling",
)
def scaling(
    output: Folder,
    config: opt.Config = None,
    assignments: opt.Set = None,
    device: opt.Device = None,
    items: Items = "2000,4000,8000,16000",
    users: Users = "2000,4000,8000,16000",
) -> Answer:
    """Measure the cost of an epoch as items and users grow, on synthetic data, and fit exponents."""
    from mmtoolkit.recommend.studies import scaling as engine

    counts = [parse_numbers("--items", items, whole=True), parse_numbers("--users", users, whole=True)]
    resolved = _resolve(*_layers(config, assignments, None, device))
    _warn_of_idle_settings([resolved])
    sizes = engine.plan_scaling(resolved.settings, output, *counts)
    engine.run_scaling(sizes)
    costs, exponents, files = engine.report_scaling(sizes, output)
    content = {
        "costs": [vars(cost) for cost in costs],
        "exponents": exponents,
        "files": [str(f) for f in files],
    }
    measured = Table("Seconds and memory of an epoch", *engine.cost_table(costs))
    fitted = Table("Cost grows as size to the power of", *engine.exponent_table(exponents))
    return Answer(content, [measured, fitted])


@command(app, "recommend tune", example="mmtk recommend tune -c freedom --data baby -o tuned --trials 30")
def tune(
    output: Folder,
    config: opt.Config = None,
    assignments: opt.Set = None,
    data: Data = None,
    device: opt.Device = None,
    search: Search = None,
    trials: Annotated[int, typer.Option(help="Trials in all.", min=1, rich_help_panel=opt.RUN)] = 30,
    minutes: Minutes = None,
    dry_run: opt.DryRun = False,
) -> Answer:
    """Search for better settings by their validation score, and write them as a preset."""
    from mmtoolkit.recommend.studies import tune as engine

    base, changes = _layers(config, assignments, data, device)
    resolved, space = engine.plan_tune([*base, *changes], search or [])
    _warn_of_idle_settings([resolved])
    if dry_run:
        rows = {name: repr(values) for name, values in space.items()}
        table = Table("To search", ["setting", "values"], [[*row] for row in rows.items()])
        return Answer({"dry_run": True, "space": rows}, [table])
    return _tuned(engine.tune([*base, *changes], search or [], output, trials, minutes))


def _tuned(found: "TuneResult") -> Answer:
    content = {
        "metrics": {found.metric: found.best},
        "values": found.values,
        "trials": found.trials,
        "files": [str(file) for file in found.files],
    }
    rows = [[name, str(value)] for name, value in found.values.items()]
    title = f"Validation {found.metric} {found.best:.4f}"
    return Answer(content, [Table(title, ["setting", "best"], rows), f"preset  {found.files[0]}"])


def _layers(
    config: str | None, assignments: list[str] | None, data: Path | None, device: opt.DeviceChoice | None
) -> "tuple[list[Layer], list[Layer]]":
    """Return the layers of the preset, and those of the changes on the command line."""
    from mmtoolkit.core.config import config_layer

    from ..plan import command_layers

    changes = command_layers(assignments, {"data.path": data, "device": device})
    return [config_layer("recommend", config)] if config else [], changes


def _resolve(base: "list[Layer]", changes: "list[Layer]") -> "Resolved[RecommendSettings]":
    from mmtoolkit.core.config import resolve
    from mmtoolkit.recommend import RecommendSettings

    return resolve(RecommendSettings, [*base, *changes])


def _planned(members: "Sequence[Member]", *, dry_run: bool) -> Answer | None:
    """Warn of settings without effect and, in a dry run, return the members of a study."""
    _warn_of_idle_settings(member.resolved for member in members)
    if not dry_run:
        return None
    planned = [{"label": m.label, "run": str(m.path), "finished": m.finished} for m in members]
    rows = [[m.label, str(m.path), "finished" if m.finished else "to train"] for m in members]
    title = f"{len(members)} members, {sum(member.finished for member in members)} finished"
    return Answer({"dry_run": True, "members": planned}, [Table(title, ["member", "run", ""], rows)])


def _warn_of_idle_settings(runs: "Iterable[Resolved[RecommendSettings]]") -> None:
    """Warn once of settings given by `--set` that no run of a study reads."""
    from mmtoolkit.core.config import idle_settings
    from mmtoolkit.core.logging import logger
    from mmtoolkit.recommend.config import READ_BY

    idle = []
    for resolved in runs:
        given = [name for name, source in resolved.sources.items() if source == "--set"]
        idle.append(idle_settings(resolved.settings, given, READ_BY, "study"))
    for name, reason in idle[0].items():
        if all(name in other for other in idle):
            logger.warning("--set %s: without effect, as %s", name, reason)
