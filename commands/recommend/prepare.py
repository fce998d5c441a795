"""`mmtk recommend prepare`: from raw shop data to a data set folder."""

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmtoolkit.core.errors import UsageError

from .. import options
from ..options import Debug, Device, DryRun, Json, Quiet, Seed, Set, Verbose
from ..output import facts_as_text, print_dry_run, print_facts, print_json, start_output

if TYPE_CHECKING:
    from mmtoolkit.recommend.prepare.config import PrepareSettings

    from ..plan import Plan

app = typer.Typer()

COLUMNS = "Columns (default: guessed from the header)"


class SplitKind(StrEnum):
    """How to split."""

    random = "random"
    leave_one_out = "leave-one-out"
    time = "time"
    given = "given"


def _file(help_text: str, metavar: str = "FILE") -> Any:
    return typer.Option(metavar=metavar, help=help_text, rich_help_panel=options.CONFIGURATION)


def _column(help_text: str) -> Any:
    return typer.Option(metavar="NAME", help=help_text, rich_help_panel=COLUMNS)


@app.command(
    "prepare", epilog="Example: mmtk recommend prepare --interactions sales.csv --items products.csv -o shop"
)
def prepare(
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", "-c", metavar="FILE", help="A YAML file.", rich_help_panel=options.CONFIGURATION
        ),
    ] = None,
    assignments: Set = None,
    interactions: Annotated[
        Path | None, _file("Who had what: csv, tsv, json lines, .inter, also .gz.")
    ] = None,
    items: Annotated[Path | None, _file("Catalogue with the items' texts, same formats.")] = None,
    images: Annotated[Path | None, _file("Folder with the items' pictures.", "FOLDER")] = None,
    text_encoder: Annotated[
        str | None, _file("Text encoder: folder, package:NAME, hub id, or none.", "MODEL")
    ] = None,
    image_encoder: Annotated[
        str | None, _file("Image encoder: folder, package:NAME, hub id, or none.", "MODEL")
    ] = None,
    split: Annotated[SplitKind | None, _file("How to split.", "KIND")] = None,
    user_core: Annotated[int | None, _file("Fewest interactions of a user.", "N")] = None,
    item_core: Annotated[int | None, _file("Fewest interactions of an item.", "N")] = None,
    min_rating: Annotated[float | None, _file("Least rating that counts.", "X")] = None,
    user_column: Annotated[str | None, _column("The user.")] = None,
    item_column: Annotated[str | None, _column("The item.")] = None,
    rating_column: Annotated[str | None, _column("The rating.")] = None,
    time_column: Annotated[str | None, _column("The time.")] = None,
    text_column: Annotated[list[str] | None, _column("A text of the item; may be repeated.")] = None,
    image_column: Annotated[str | None, _column("The item's picture file.")] = None,
    seed: Seed = None,
    device: Device = None,
    resume: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Continue an interrupted one.", rich_help_panel=options.RUN),
    ] = None,
    dry_run: DryRun = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FOLDER", help="New folder.", rich_help_panel=options.OUTPUT),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Turn raw interactions, item texts and pictures into a data set folder."""
    start_output(quiet=quiet, verbose=verbose)
    given = {
        "--interactions": ("interactions", interactions),
        "--items": ("items", items),
        "--images": ("images", images),
        "--text-encoder": ("text.encoder", text_encoder),
        "--image-encoder": ("image.encoder", image_encoder),
        "--split": ("split.kind", split),
        "--user-core": ("filter.user_core", user_core),
        "--item-core": ("filter.item_core", item_core),
        "--min-rating": ("filter.min_rating", min_rating),
        "--user-column": ("columns.user", user_column),
        "--item-column": ("columns.item", item_column),
        "--rating-column": ("columns.rating", rating_column),
        "--time-column": ("columns.time", time_column),
        "--text-column": ("columns.text", text_column),
        "--image-column": ("columns.image", image_column),
        "--seed": ("seed", seed),
        "--device": ("device", device),
    }
    plan = _plan(config, assignments, given, output, resume)
    if dry_run:
        _print_dry_run(plan, as_json=as_json)
    else:
        _prepare(plan, as_json=as_json)


def _plan(
    config: Path | None,
    assignments: list[str] | None,
    given: Mapping[str, tuple[str, Any]],
    output: Path | None,
    resume: Path | None,
) -> "Plan[PrepareSettings]":
    from mmtoolkit.core.config import Layer, nested, set_layers
    from mmtoolkit.core.run import RunDirectory
    from mmtoolkit.recommend.prepare.config import RESUMABLE, PrepareSettings

    from ..plan import plan_resume, plan_run

    changes = set_layers(assignments or [])
    for option, (name, value) in given.items():
        if value is not None:
            plain = value if isinstance(value, list | int | float) else str(value)
            changes.append(Layer(option, nested(name, plain)))
    file = str(config) if config else None
    if resume:
        from mmtoolkit.recommend.prepare.write import check_unfinished

        check_unfinished(RunDirectory.open(resume))
        return plan_resume(PrepareSettings, resume, file, changes, output, RESUMABLE)
    if output is None:
        raise UsageError("no folder to make; name a new one with --output FOLDER")
    plan = plan_run("recommend", PrepareSettings, file, changes, output)
    _check_idle_options(plan.resolved.settings, given)
    return plan


def _check_idle_options(settings: "PrepareSettings", given: Mapping[str, tuple[str, Any]]) -> None:
    """Refuse options about texts without a catalogue, and about pictures without their folder."""
    for option, source, remedy in (
        ("--text-encoder", settings.items, "--items FILE"),
        ("--text-column", settings.items, "--items FILE"),
        ("--image-encoder", settings.images, "--images FOLDER"),
        ("--image-column", settings.images, "--images FOLDER"),
    ):
        value = given[option][1]
        if source is None and value and value != "none":
            shown = " ".join(value) if isinstance(value, list) else value
            raise UsageError(
                f"{option} {shown}: does nothing without {remedy}; give that too, or leave it out"
            )


def _print_dry_run(plan: "Plan[PrepareSettings]", *, as_json: bool) -> None:
    from mmtoolkit.recommend.prepare.write import describe

    facts = describe(plan.resolved.settings)
    print_dry_run("recommend prepare", plan.run.path, facts, as_json=as_json, folder="folder")


def _prepare(plan: "Plan[PrepareSettings]", *, as_json: bool) -> None:
    from mmtoolkit.recommend.prepare.write import MANIFEST
    from mmtoolkit.recommend.prepare.write import prepare as prepare_folder

    manifest = prepare_folder(plan.resolved.settings, plan.run)
    path, counts = plan.run.path, manifest["counts"]
    if as_json:
        files = [str(path / name) for name in (*manifest["files"], MANIFEST)]
        told = manifest["modalities"]
        print_json("recommend prepare", folder=str(path), counts=counts, modalities=told, files=files)
        return
    facts = {**counts["kept"], **counts["splits"]}
    for kind, told in manifest["modalities"].items():
        facts[f"{kind}s encoded"] = told["items_encoded"]
        facts[f"{kind}s missing"] = told["items_missing"] + told["items_unreadable"]
    print_facts(facts_as_text(facts))
    typer.echo(f"next: mmtk recommend train --data {path}")
