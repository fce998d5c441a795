"""`mmtk recommend predict | similar | new-items | new-users | export`: use a trained run."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmtoolkit.core.errors import UsageError

from .. import options as opt
from ..command import Answer, command
from ..output import facts_as_text
from .options import Data, Format, ListFile, ListFormat, Numbers, TopK, given

if TYPE_CHECKING:
    from mmtoolkit.recommend import Model, Ranked
    from mmtoolkit.recommend.serving.names import Names

app = typer.Typer()


class Seen(StrEnum):
    """What counts as seen in predictions."""

    train = "train"
    validation = "validation"
    all = "all"


class Index(StrEnum):
    """Kinds of faiss indexes."""

    none = "none"
    flat = "flat"
    hnsw = "hnsw"


Users = Annotated[
    list[str] | None, given("User ids, or a file with one per line (default: all users).", "FILE|ID")
]
MoreUsers = Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="More user ids or files.")]
Items = Annotated[
    list[str] | None, given("Item ids, or a file with one per line (default: all items).", "FILE|ID")
]
MoreItems = Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="More item ids or files.")]
SeenSplits = Annotated[Seen, typer.Option(help="Splits whose items are excluded.")]
Explain = Annotated[bool, typer.Option("--explain", help="Explain each score, as text or jsonl.")]
NewItems = Annotated[Path | None, given("Texts of the new items, in the catalogue's format.")]
NewPictures = Annotated[Path | None, given("Their pictures.", "FOLDER")]
NewFeatures = Annotated[
    list[str] | None, given("Or their features, as text=new_text.npy; may be repeated.", "NAME=FILE")
]
Neighbours = Annotated[
    bool, typer.Option("--neighbours", help="List the nearest known items instead of the users.")
]
NewInteractions = Annotated[Path, given("Items of the new users, in the format of the interactions.")]
Vectors = Annotated[
    Path, typer.Option("--output", "-o", metavar="FOLDER", help="New folder.", rich_help_panel=opt.OUTPUT)
]


@command(app, "recommend predict", example="mmtk recommend predict --checkpoint RUN --users 3 8 -o top.csv")
def predict(
    checkpoint: opt.Checkpoint,
    more_users: MoreUsers = None,
    users: Users = None,
    top_k: TopK = 20,
    seen: SeenSplits = Seen.train,
    explain: Explain = False,
    output: ListFile = None,
    kind: ListFormat = None,
    numbers: Numbers = False,
    data: Data = None,
    device: opt.Device = None,
    as_json: bool = False,
) -> Answer:
    """Write the best unseen items of each user, with scores."""
    from mmtoolkit.recommend import predict as engine
    from mmtoolkit.recommend.serving.names import chosen_numbers

    target = _target(output, kind, as_json=as_json, explain=explain)
    model, names = _load(checkpoint, data, device, numbers=numbers)
    chosen = chosen_numbers([*(users or []), *(more_users or [])], names[0])
    lists = engine(model, chosen, top_k, seen.value)
    target.write(lists, ("user", "item"), names, explained=model if explain else None)
    return target.answer({"users": len(chosen), "top_k": top_k})


@command(app, "recommend similar", example="mmtk recommend similar --checkpoint RUN --items 17 --top-k 5")
def similar(
    checkpoint: opt.Checkpoint,
    more_items: MoreItems = None,
    items: Items = None,
    top_k: TopK = 10,
    output: ListFile = None,
    kind: ListFormat = None,
    numbers: Numbers = False,
    data: Data = None,
    device: opt.Device = None,
    as_json: bool = False,
) -> Answer:
    """Write the nearest items of each item in the trained item space."""
    from mmtoolkit.recommend import similar as engine
    from mmtoolkit.recommend.serving.names import chosen_numbers

    target = _target(output, kind, as_json=as_json)
    model, (_, names) = _load(checkpoint, data, device, numbers=numbers)
    chosen = chosen_numbers([*(items or []), *(more_items or [])], names)
    target.write(engine(model, chosen, top_k), ("item", "neighbour"), (names, names))
    return target.answer({"items": len(chosen), "top_k": top_k})


@command(app, "recommend new-items", example="mmtk recommend new-items --checkpoint RUN --items new.csv")
def new_items(
    checkpoint: opt.Checkpoint,
    items: NewItems = None,
    images: NewPictures = None,
    features: NewFeatures = None,
    top_k: TopK = 20,
    neighbours: Neighbours = False,
    output: ListFile = None,
    kind: ListFormat = None,
    numbers: Numbers = False,
    data: Data = None,
    device: opt.Device = None,
    as_json: bool = False,
) -> Answer:
    """Find the users (or the neighbours) of items that training never saw, without training again."""
    from mmtoolkit.recommend.serving import new_items as engine

    target = _target(output, kind, as_json=as_json)
    model, (user_names, item_names) = _load(checkpoint, data, device, numbers=numbers)
    new, rows = engine.new_item_features(model, items, images, features or [])
    placed = engine.place_items(model, rows)
    lists = placed.nearest if neighbours else engine.audience(model, placed, top_k)
    heads, others = (("item", "neighbour"), item_names) if neighbours else (("item", "user"), user_names)
    target.write(lists, heads, (new, others))
    return target.answer({"items": new.count})


@command(
    app, "recommend new-users", example="mmtk recommend new-users --checkpoint RUN --interactions new.csv"
)
def new_users(
    checkpoint: opt.Checkpoint,
    interactions: NewInteractions,
    top_k: TopK = 20,
    output: ListFile = None,
    kind: ListFormat = None,
    numbers: Numbers = False,
    data: Data = None,
    device: opt.Device = None,
    as_json: bool = False,
) -> Answer:
    """Write the best items of users that training never saw, from the items that they have."""
    from mmtoolkit.recommend.serving.new_users import fold_in, read_histories

    target = _target(output, kind, as_json=as_json)
    model, (_, item_names) = _load(checkpoint, data, device, numbers=numbers)
    new, histories = read_histories(model, interactions, item_names)
    target.write(fold_in(model, histories, top_k), ("user", "item"), (new, item_names))
    return target.answer({"users": new.count})


@command(app, "recommend export", example="mmtk recommend export --checkpoint RUN --index flat -o vectors")
def export(
    checkpoint: opt.Checkpoint,
    output: Vectors,
    index: Annotated[Index, typer.Option(help="Also a faiss index of the items.")] = Index.none,
    top_k: TopK = 20,
    numbers: Numbers = False,
    data: Data = None,
    device: opt.Device = None,
) -> Answer:
    """Write users.npy, items.npy and a faiss index that is checked against exact top-K lists."""
    from mmtoolkit.recommend import export as engine

    model, names = _load(checkpoint, data, device, numbers=numbers)
    facts = engine(model, output, index.value, top_k, names)
    files = [str(path) for path in sorted(output.iterdir())]
    content = {"run": str(checkpoint), **facts, "files": files}
    return Answer(content, [{"folder": str(output), **facts_as_text(facts)}])


@dataclass(frozen=True)
class _Target:
    """File of the lists, None for stdout, and their format: `csv`, `jsonl`, `parquet` or `text`."""

    path: Path | None
    form: str

    def write(
        self,
        lists: "Iterable[Ranked]",
        heads: tuple[str, str],
        names: "tuple[Names, Names]",
        explained: "Model | None" = None,
    ) -> None:
        """Write lists, or the explanations of every score by the model `explained`."""
        from mmtoolkit.recommend.serving.explain import Explainer, explanation_lines
        from mmtoolkit.recommend.serving.lists import Heads, write_lines, write_lists

        if explained is None:
            write_lists(lists, Heads(*heads, *names), self.path, self.form)
        else:
            write_lines(explanation_lines(Explainer(explained), lists, names, self.form), self.path)

    def answer(self, facts: Mapping[str, int]) -> Answer:
        """Return the numbers of lists and the file, after the lists have been written."""
        from mmtoolkit.core.logging import logger

        if self.path:
            (kind, count), *_ = facts.items()
            logger.info("%s: lists for %d %s", self.path, count, kind)
        return Answer({**facts, "files": [str(self.path)]})


def _target(output: Path | None, kind: Format | None, *, as_json: bool, explain: bool = False) -> _Target:
    """Choose the format of lists before anything is loaded."""
    from mmtoolkit.recommend.serving.lists import list_format

    if as_json and output is None:
        raise UsageError("--json needs --output FILE for the lists")
    if explain and output is None and kind is None:
        return _Target(output, "text")
    form = list_format(output, kind.value if kind else None)
    if explain and form != "jsonl":
        raise UsageError(f"--explain writes text or jsonl, not {form}; name the file .jsonl")
    return _Target(output, form)


def _load(
    checkpoint: Path, data: Path | None, device: opt.DeviceChoice | None, *, numbers: bool
) -> "tuple[Model, tuple[Names, Names]]":
    from mmtoolkit.recommend import load
    from mmtoolkit.recommend.serving.names import read_names

    model = load(checkpoint, data, device.value if device else "auto")
    return model, read_names(model, numbers=numbers)
