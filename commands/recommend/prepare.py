"""`mmtk recommend prepare`: from raw shop data to a data set folder."""

from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmtoolkit.core.errors import UsageError

from .. import options as opt
from ..command import Answer, command, planned
from ..output import facts_as_text
from .options import given

if TYPE_CHECKING:
    from mmtoolkit.recommend import PrepareSettings

    from ..output import Part
    from ..plan import Plan

app = typer.Typer()

SETTINGS = {
    "--interactions": "interactions",
    "--items": "items",
    "--images": "images",
    "--text-encoder": "text.encoder",
    "--image-encoder": "image.encoder",
    "--split": "split.kind",
    "--user-core": "filter.user_core",
    "--item-core": "filter.item_core",
    "--min-rating": "filter.min_rating",
    "--user-column": "columns.user",
    "--item-column": "columns.item",
    "--rating-column": "columns.rating",
    "--time-column": "columns.time",
    "--text-column": "columns.text",
    "--image-column": "columns.image",
    "--seed": "seed",
    "--device": "device",
}
"""The setting of each option."""


class SplitKind(StrEnum):
    """How to split."""

    random = "random"
    leave_one_out = "leave-one-out"
    time = "time"
    given = "given"


def _column(help_text: str) -> Any:
    panel = "Columns (default: guessed from the header)"
    return typer.Option(metavar="NAME", help=help_text, rich_help_panel=panel)


@command(
    app,
    "recommend prepare",
    example="mmtk recommend prepare --interactions sales.csv --items products.csv -o shop",
)
def prepare(
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", "-c", metavar="FILE", help="A YAML file.", rich_help_panel=opt.CONFIGURATION
        ),
    ] = None,
    assignments: opt.Set = None,
    interactions: Annotated[
        Path | None, given("Users and their items: csv, tsv, json lines, .inter, also .gz.")
    ] = None,
    items: Annotated[Path | None, given("Catalogue with the items' texts, same formats.")] = None,
    images: Annotated[Path | None, given("Folder with the items' pictures.", "FOLDER")] = None,
    text_encoder: Annotated[
        str | None, given("Text encoder: folder, package:NAME, hub id, or none.", "MODEL")
    ] = None,
    image_encoder: Annotated[
        str | None, given("Image encoder: folder, package:NAME, hub id, or none.", "MODEL")
    ] = None,
    split: Annotated[SplitKind | None, given("How to split.", "KIND")] = None,
    user_core: Annotated[int | None, given("Smallest number of interactions of a user.", "N")] = None,
    item_core: Annotated[int | None, given("Smallest number of interactions of an item.", "N")] = None,
    min_rating: Annotated[float | None, given("Lowest rating that counts.", "X")] = None,
    user_column: Annotated[str | None, _column("The user.")] = None,
    item_column: Annotated[str | None, _column("The item.")] = None,
    rating_column: Annotated[str | None, _column("The rating.")] = None,
    time_column: Annotated[str | None, _column("The time.")] = None,
    text_column: Annotated[list[str] | None, _column("A text of the item; may be repeated.")] = None,
    image_column: Annotated[str | None, _column("The item's picture file.")] = None,
    seed: opt.Seed = None,
    device: opt.Device = None,
    resume: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Continue an interrupted preparation.", rich_help_panel=opt.RUN),
    ] = None,
    dry_run: opt.DryRun = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FOLDER", help="New folder.", rich_help_panel=opt.OUTPUT),
    ] = None,
) -> Answer:
    """Turn raw interactions, item texts and pictures into a data set folder."""
    from mmtoolkit.recommend.prepare.prepare import describe

    files_and_models = (interactions, items, images, text_encoder, image_encoder)
    rules = (split, user_core, item_core, min_rating)
    columns = (user_column, item_column, rating_column, time_column, text_column, image_column)
    changed = dict(zip(SETTINGS, (*files_and_models, *rules, *columns, seed, device), strict=True))
    plan = _plan(config, assignments, changed, output, resume)
    if dry_run:
        return planned(plan.run.path, describe(plan.resolved.settings), folder="folder")
    return _prepare(plan)


def _plan(
    config: Path | None,
    assignments: list[str] | None,
    changed: Mapping[str, Any],
    output: Path | None,
    resume: Path | None,
) -> "Plan[PrepareSettings]":
    from mmtoolkit.core.config import Layer, nested, set_layers
    from mmtoolkit.core.run import RunDirectory
    from mmtoolkit.recommend.prepare.config import RESUMABLE, PrepareSettings
    from mmtoolkit.recommend.prepare.prepare import check_unfinished

    from ..plan import plan_resume, plan_run

    changes = set_layers(assignments or [])
    for option, value in changed.items():
        if value is not None:
            plain = value if isinstance(value, list | int | float) else str(value)
            changes.append(Layer(option, nested(SETTINGS[option], plain)))
    file = str(config) if config else None
    if resume:
        check_unfinished(RunDirectory.open(resume))
        return plan_resume(PrepareSettings, resume, file, changes, output, RESUMABLE)
    if output is None:
        raise UsageError("no folder to make; name a new one with --output FOLDER")
    plan = plan_run("recommend", PrepareSettings, file, changes, output)
    _check_idle_options(plan.resolved.settings, changed)
    return plan


def _check_idle_options(settings: "PrepareSettings", changed: Mapping[str, Any]) -> None:
    """Refuse options for texts without a catalogue, and options for pictures without a folder."""
    for option, source, remedy in (
        ("--text-encoder", settings.items, "--items FILE"),
        ("--text-column", settings.items, "--items FILE"),
        ("--image-encoder", settings.images, "--images FOLDER"),
        ("--image-column", settings.images, "--images FOLDER"),
    ):
        value = changed[option]
        if source is None and value and value != "none":
            shown = " ".join(value) if isinstance(value, list) else value
            raise UsageError(
                f"{option} {shown}: does nothing without {remedy}; give that too, or leave it out"
            )


def _prepare(plan: "Plan[PrepareSettings]") -> Answer:
    from mmtoolkit.recommend import prepare as engine
    from mmtoolkit.recommend.prepare.manifest import MANIFEST

    manifest = engine(plan.resolved.settings, plan.run, resume=plan.resume)
    path = plan.run.path
    content = {
        "folder": str(path),
        "counts": manifest["counts"],
        "modalities": manifest["modalities"],
        "files": [str(path / name) for name in (*manifest["files"], MANIFEST)],
    }
    return Answer(content, _summary(path, manifest))


def _summary(path: Path, manifest: Mapping[str, Any]) -> "Iterator[Part]":
    counts = manifest["counts"]
    facts = {**counts["kept"], **counts["splits"]}
    for kind, entry in manifest["modalities"].items():
        facts[f"{kind}s encoded"] = entry["items_encoded"]
        facts[f"{kind}s missing"] = entry["items_missing"] + entry["items_unreadable"]
    yield facts_as_text(facts)
    yield f"next: mmtk recommend train --data {path}"
