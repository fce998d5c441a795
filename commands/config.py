"""`mmtk config`: list, show, validate and copy settings."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmtoolkit.core.errors import UsageError

from .command import Answer, command
from .options import Set
from .output import Table

if TYPE_CHECKING:
    from mmtoolkit.core.config import Settings

app = typer.Typer(no_args_is_help=True, help="List, show, validate and copy settings.")


def _recommend() -> "type[Settings]":
    from mmtoolkit.recommend.config import RecommendSettings

    return RecommendSettings


def _distill() -> "type[Settings]":
    from mmtoolkit.distill.config import DistillSettings

    return DistillSettings


def _landmarks() -> "type[Settings]":
    from mmtoolkit.landmarks.config import LandmarkSettings

    return LandmarkSettings


ENGINES: "dict[str, Callable[[], type[Settings]]]" = {
    "recommend": _recommend,
    "distill": _distill,
    "landmarks": _landmarks,
}

Engine = Annotated[str, typer.Argument(metavar="ENGINE", help=f"One of: {', '.join(ENGINES)}.")]


def settings_class(engine: str) -> "type[Settings]":
    """Return the settings of an engine.

    Raises:
        UsageError: if there is no such engine.
    """
    from mmtoolkit.core.config import did_you_mean

    if engine not in ENGINES:
        known = ", ".join(ENGINES)
        raise UsageError(f"no engine '{engine}' ({known}){did_you_mean(engine, list(ENGINES))}")
    return ENGINES[engine]()


@command(app, "config list", example="mmtk config list")
def list_presets() -> Answer:
    """List the presets of every engine."""
    from mmtoolkit.core.config import preset_names, preset_text

    presets = {engine: preset_names(engine) for engine in ENGINES}
    rows = [
        [engine, name, preset_text(engine, name).partition("\n")[0].lstrip("# ")]
        for engine, names in presets.items()
        for name in names
    ]
    return Answer({"presets": presets}, [Table("Presets", ["engine", "preset", "about"], rows)])


@command(app, "config show", example="mmtk config show recommend igdmrec -s train.epochs=50")
def show(
    engine: Engine,
    config: Annotated[str | None, typer.Argument(metavar="[PRESET|FILE]", help="None: the defaults.")] = None,
    assignments: Set = None,
) -> Answer:
    """Print resolved settings as YAML that can be fed back, with the source of each value."""
    from mmtoolkit.core.config import config_layer, resolve, set_layers

    layers = [config_layer(engine, config)] if config else []
    resolved = resolve(settings_class(engine), [*layers, *set_layers(assignments or [])])
    settings = resolved.settings.model_dump(mode="json")
    return Answer({"settings": settings, "sources": dict(resolved.sources)}, [resolved.to_yaml().rstrip()])


@command(app, "config validate", example="mmtk config validate recommend mine.yaml")
def validate(
    engine: Engine,
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="Files or presets.")],
) -> Answer:
    """Check settings files."""
    from mmtoolkit.core.config import config_layer, resolve

    kind = settings_class(engine)
    for file in files:
        resolve(kind, [config_layer(engine, file)])
    return Answer({"valid": files}, [f"{file}: valid" for file in files])


@command(app, "config copy", example="mmtk config copy recommend igdmrec mine.yaml")
def copy(
    engine: Engine,
    preset: Annotated[str, typer.Argument(help="Name of a preset.")],
    target: Annotated[Path, typer.Argument(help="New file, or a folder.")],
) -> Answer:
    """Copy a preset to a file of your own."""
    from mmtoolkit.core.config import preset_text

    settings_class(engine)
    text = preset_text(engine, preset)
    path = target / f"{preset}.yaml" if target.is_dir() else target
    try:
        with path.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError:
        raise UsageError(f"{path}: already there; name another file") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be written: {error.strerror}") from None
    return Answer({"files": [str(path)]}, [f"{path}: written; use it with --config {path}"])
