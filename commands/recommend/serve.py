"""`mmtk recommend predict | similar | new-items | new-users | export`: serve a trained run."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmtoolkit.core.errors import UsageError

from .. import options
from ..options import Checkpoint, Debug, Device, Json, Quiet, Verbose
from ..output import facts_as_text, print_facts, print_json, start_output
from .train import Data

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mmtoolkit.recommend.load import Model
    from mmtoolkit.recommend.serving.lists import Ranked
    from mmtoolkit.recommend.serving.names import Names

app = typer.Typer()


class Seen(StrEnum):
    """What counts as seen in predictions."""

    train = "train"
    validation = "validation"
    all = "all"


class Format(StrEnum):
    """Formats of lists."""

    csv = "csv"
    jsonl = "jsonl"
    parquet = "parquet"


class Index(StrEnum):
    """Kinds of faiss indexes."""

    none = "none"
    flat = "flat"
    hnsw = "hnsw"


TopK = Annotated[int, typer.Option(help="Length of each list.", min=1)]
ListFile = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        help="File to write, .csv, .jsonl or .parquet (default: stdout).",
        rich_help_panel=options.OUTPUT,
    ),
]
ListFormat = Annotated[
    Format | None,
    typer.Option("--format", help="Default: by the file's name, else csv.", rich_help_panel=options.OUTPUT),
]
Numbers = Annotated[
    bool,
    typer.Option(
        "--numbers",
        help="Ids are row numbers, not those of the shop.",
        rich_help_panel=options.CONFIGURATION,
    ),
]


def _input(help_text: str, metavar: str = "FILE") -> Any:
    return typer.Option(metavar=metavar, help=help_text, rich_help_panel=options.CONFIGURATION)


@app.command(
    "predict",
    epilog="Example: mmtk recommend predict --checkpoint RUN --users 3 8 -o top.csv",
)
def predict(
    checkpoint: Checkpoint,
    more_users: Annotated[
        list[str] | None, typer.Argument(metavar="[ID]...", help="More user ids or files.")
    ] = None,
    users: Annotated[
        list[str] | None, _input("User ids, or a file with one a line (default: all users).", "FILE|ID")
    ] = None,
    top_k: TopK = 20,
    seen: Annotated[Seen, typer.Option(help="Splits whose items are left out.")] = Seen.train,
    explain: Annotated[
        bool, typer.Option("--explain", help="Say what carries each score, as text or jsonl.")
    ] = False,
    output: ListFile = None,
    kind: ListFormat = None,
    numbers: Numbers = False,
    data: Data = None,
    device: Device = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Write the best unseen items of each user, with scores."""
    start_output(quiet=quiet, verbose=verbose)
    from mmtoolkit.recommend import predict as engine

    target = _target(output, kind, as_json=as_json, explain=explain)
    model, names = _load(checkpoint, data, device, numbers=numbers)
    chosen = engine.chosen_numbers([*(users or []), *(more_users or [])], names[0])
    lists = engine.predict(model, chosen, top_k, seen.value)
    if explain:
        _put_explanations(model, lists, names, output, target)
    else:
        _put(lists, ("user", "item"), names, output, target)
    _end(
        "recommend predict", output, f"lists for {len(chosen)} users", as_json, users=len(chosen), top_k=top_k
    )


@app.command("similar", epilog="Example: mmtk recommend similar --checkpoint RUN --items 17 --top-k 5")
def similar(
    checkpoint: Checkpoint,
    more_items: Annotated[
        list[str] | None, typer.Argument(metavar="[ID]...", help="More item ids or files.")
    ] = None,
    items: Annotated[
        list[str] | None, _input("Item ids, or a file with one a line (default: all items).", "FILE|ID")
    ] = None,
    top_k: TopK = 10,
    output: ListFile = None,
    kind: ListFormat = None,
    numbers: Numbers = False,
    data: Data = None,
    device: Device = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Write the nearest items of each item in the trained item space."""
    start_output(quiet=quiet, verbose=verbose)
    from mmtoolkit.recommend.predict import chosen_numbers
    from mmtoolkit.recommend.similar import similar_items

    target = _target(output, kind, as_json=as_json)
    model, names = _load(checkpoint, data, device, numbers=numbers)
    chosen = chosen_numbers([*(items or []), *(more_items or [])], names[1])
    lists = similar_items(model, chosen, top_k)
    _put(lists, ("item", "neighbour"), (names[1], names[1]), output, target)
    _end(
        "recommend similar", output, f"lists for {len(chosen)} items", as_json, items=len(chosen), top_k=top_k
    )


@app.command("new-items", epilog="Example: mmtk recommend new-items --checkpoint RUN --items new.csv")
def new_items(
    checkpoint: Checkpoint,
    items: Annotated[Path | None, _input("Texts of the new items, in the catalogue's format.")] = None,
    images: Annotated[Path | None, _input("Their pictures.", "FOLDER")] = None,
    features: Annotated[
        list[str] | None, _input("Or their features, as text=new_text.npy; may be repeated.", "NAME=FILE")
    ] = None,
    top_k: TopK = 20,
    neighbours: Annotated[
        bool, typer.Option("--neighbours", help="List the nearest known items instead of the users.")
    ] = False,
    output: ListFile = None,
    kind: ListFormat = None,
    numbers: Numbers = False,
    data: Data = None,
    device: Device = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Find the users (or the neighbours) of items that training never saw, without training again."""
    start_output(quiet=quiet, verbose=verbose)
    from mmtoolkit.recommend.serving.arrivals import new_item_features
    from mmtoolkit.recommend.serving.newcomers import audience, place_items

    target = _target(output, kind, as_json=as_json)
    model, names = _load(checkpoint, data, device, numbers=numbers)
    arrived, rows = new_item_features(model, items, images, features or [])
    placed = place_items(model, rows)
    heads, others = (("item", "neighbour"), names[1]) if neighbours else (("item", "user"), names[0])
    lists = placed.nearest if neighbours else audience(model, placed, top_k)
    _put(lists, heads, (arrived, others), output, target)
    _end("recommend new-items", output, f"lists for {arrived.count} new items", as_json, items=arrived.count)


@app.command("new-users", epilog="Example: mmtk recommend new-users --checkpoint RUN --interactions new.csv")
def new_users(
    checkpoint: Checkpoint,
    interactions: Annotated[Path, _input("What the new users have, in the format of the interactions.")],
    top_k: TopK = 20,
    output: ListFile = None,
    kind: ListFormat = None,
    numbers: Numbers = False,
    data: Data = None,
    device: Device = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Write the best items of users that training never saw, from what they have."""
    start_output(quiet=quiet, verbose=verbose)
    from mmtoolkit.recommend.serving.arrivals import read_histories
    from mmtoolkit.recommend.serving.newcomers import fold_in

    target = _target(output, kind, as_json=as_json)
    model, names = _load(checkpoint, data, device, numbers=numbers)
    arrived, histories = read_histories(model, interactions, names[1])
    lists = fold_in(model, histories, top_k)
    _put(lists, ("user", "item"), (arrived, names[1]), output, target)
    _end("recommend new-users", output, f"lists for {arrived.count} new users", as_json, users=arrived.count)


@app.command("export", epilog="Example: mmtk recommend export --checkpoint RUN --index flat -o vectors")
def export(
    checkpoint: Checkpoint,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="FOLDER", help="New folder.", rich_help_panel=options.OUTPUT),
    ],
    index: Annotated[Index, typer.Option(help="Also a faiss index of the items.")] = Index.none,
    top_k: TopK = 20,
    numbers: Numbers = False,
    data: Data = None,
    device: Device = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Write users.npy, items.npy and a faiss index that is checked against exact top-K lists."""
    start_output(quiet=quiet, verbose=verbose)
    from mmtoolkit.recommend.export import export as export_vectors

    model, names = _load(checkpoint, data, device, numbers=numbers)
    facts = export_vectors(model, names, output, index.value, top_k)
    if as_json:
        files = [str(path) for path in sorted(output.iterdir())]
        print_json("recommend export", run=str(checkpoint), **facts, files=files)
    else:
        print_facts({"folder": str(output), **facts_as_text(facts)})


def _load(
    checkpoint: Path, data: Path | None, device: Any, *, numbers: bool
) -> "tuple[Model, tuple[Names, Names]]":
    from mmtoolkit.recommend.load import load_model
    from mmtoolkit.recommend.serving.names import read_names

    model = load_model(checkpoint, data, device.value if device else "auto")
    return model, read_names(model, numbers=numbers)


def _target(output: Path | None, kind: Format | None, *, as_json: bool, explain: bool = False) -> str:
    """Choose the format of lists before anything is loaded."""
    from mmtoolkit.recommend.serving.lists import list_format

    if as_json and output is None:
        raise UsageError("--json needs --output FILE for the lists")
    if explain and output is None and kind is None:
        return "text"
    target = list_format(output, kind.value if kind else None)
    if explain and target != "jsonl":
        raise UsageError(f"--explain writes text or jsonl, not {target}; name the file .jsonl")
    return target


def _put(
    lists: "Iterable[Ranked]",
    heads: tuple[str, str],
    names: "tuple[Names, Names]",
    output: Path | None,
    target: str,
) -> None:
    from mmtoolkit.recommend.serving.lists import Heads, write_lists

    write_lists(lists, Heads(*heads, *names), output, target)


def _put_explanations(
    model: "Model",
    lists: "Iterable[Ranked]",
    names: "tuple[Names, Names]",
    output: Path | None,
    target: str,
) -> None:
    from mmtoolkit.recommend.serving.explain import Explainer, explanation_lines
    from mmtoolkit.recommend.serving.lists import write_lines

    write_lines(explanation_lines(Explainer(model), lists, names, target), output)


def _end(command: str, output: Path | None, done: str, as_json: bool, **facts: int) -> None:
    if as_json:
        print_json(command, **facts, files=[str(output)])
    elif output:
        from mmtoolkit.core.logging import logger

        logger.info("%s: %s", output, done)
