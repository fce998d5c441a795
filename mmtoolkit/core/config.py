"""Settings: typed, merged in layers, and refused with one helpful line.

Layers from weak to strong: defaults of the model, preset, file, ``--set``, flags. Mappings merge
key by key (an empty mapping replaces), lists are replaced whole.
"""

import difflib
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from mmtoolkit.core.errors import ConfigError

Values = dict[str, Any]


class Settings(BaseModel):
    """Base of every group of settings: frozen, and without room for unknown names."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


SettingsT = TypeVar("SettingsT", bound=Settings)


@dataclass(frozen=True)
class Layer:
    """Some values and where they came from.

    Attributes:
        source: shown behind every value, as in ``preset igdmrec`` or ``--set``.
        values: nested mapping of settings.
        lines: line of each dotted name in its file, if it comes from a file.
    """

    source: str
    values: Values
    lines: Mapping[str, int] | None = None

    def source_of(self, name: str) -> str:
        """Return the source of ``name``, with its line if it is known."""
        line = (self.lines or {}).get(name)
        return self.source if line is None else f"{self.source}:{line}"


@dataclass(frozen=True)
class Resolved(Generic[SettingsT]):
    """Validated settings and the source of each dotted name that is not a default."""

    settings: SettingsT
    sources: Mapping[str, str]

    @classmethod
    def given(cls, settings: SettingsT) -> Self:
        """Return settings that Python code built, which is then the source of every value."""
        names = (name for name, _ in flatten(settings.model_dump(mode="json")))
        return cls(settings, dict.fromkeys(names, "Python"))

    def to_yaml(self) -> str:
        """Write every setting as YAML that can be fed back, with its source as a comment."""
        return "\n".join(_yaml_lines(self.settings.model_dump(mode="json"), self.sources)) + "\n"


def deep_merge(base: Values, over: Values) -> Values:
    """Merge two nested mappings; ``over`` wins, and an empty mapping in it replaces."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        both = isinstance(old, dict) and isinstance(value, dict) and value
        merged[key] = deep_merge(old, value) if both and isinstance(old, dict) else value
    return merged


def nested(name: str, value: Any) -> Values:
    """Turn ``("a.b", 1)`` into ``{"a": {"b": 1}}``."""
    for key in reversed(name.split(".")):
        value = {key: value}
    return typing.cast("Values", value)


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield ``(dotted name, value)`` of every leaf; an empty mapping counts as a leaf."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def resolve(settings_class: type[SettingsT], layers: Sequence[Layer]) -> Resolved[SettingsT]:
    """Merge the layers, strongest last, and validate the result.

    Raises:
        ConfigError: with one line for each problem, all of them at once.
    """
    merged: Values = {}
    sources: dict[str, str] = {}
    for layer in layers:
        merged = deep_merge(merged, layer.values)
        sources |= {name: layer.source_of(name) for name, _ in flatten(layer.values)}
    try:
        return Resolved(settings_class.model_validate(merged), sources)
    except ValidationError as error:
        lines = [_explain(settings_class, item, sources) for item in error.errors()]
        raise ConfigError("\n".join(lines)) from None


def set_layers(assignments: Sequence[str]) -> list[Layer]:
    """Turn ``["a.b=1"]`` (the values of ``--set``) into layers.

    Raises:
        ConfigError: if an assignment has no ``=`` or its value is no YAML.
    """
    layers = []
    for text in assignments:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise ConfigError(f"--set {text}: write KEY=VALUE, as in --set train.epochs=50")
        try:
            layers.append(Layer("--set", nested(name.strip(), yaml.safe_load(value))))
        except yaml.YAMLError:
            raise ConfigError(f"--set {text}: the value is not valid YAML; quote it") from None
    return layers


def preset_names(engine: str) -> list[str]:
    """List the presets that ship for ``engine``, sorted."""
    folder = files("mmtoolkit.configs") / engine
    return sorted(entry.name[:-5] for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def preset_text(engine: str, name: str) -> str:
    """Read a preset as it ships.

    Raises:
        ConfigError: if there is no such preset.
    """
    known = preset_names(engine)
    if name not in known:
        raise ConfigError(
            f"no preset or file '{name}' for {engine}{did_you_mean(name, known)} "
            f"(presets: {', '.join(known)})"
        )
    text: str = (files("mmtoolkit.configs") / engine / f"{name}.yaml").read_text(encoding="utf-8")
    return text


def config_layer(engine: str, preset_or_file: str) -> Layer:
    """Read ``--config``: a path if it looks like one or exists, otherwise the name of a preset.

    Raises:
        ConfigError: if it is neither, or not a YAML mapping.
    """
    path = Path(preset_or_file)
    if path.suffix in {".yaml", ".yml"} or path.is_file():
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
            raise ConfigError(f"{path}: cannot be read: {reason}") from None
        return parse_layer(text, str(path))
    text = preset_text(engine, preset_or_file)
    return Layer(f"preset {preset_or_file}", parse_layer(text, preset_or_file).values)


def parse_layer(text: str, source: str) -> Layer:
    """Parse YAML text into a layer that remembers the line of each name.

    Raises:
        ConfigError: if the text is not a YAML mapping.
    """
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = source if mark is None else f"{source}:{mark.line + 1}"
        problem = getattr(error, "problem", None) or "not valid YAML"
        raise ConfigError(f"{where}: {problem}; check the indentation and quotes there") from None
    if values is None:
        return Layer(source, {})
    if not isinstance(values, dict) or not isinstance(node, yaml.MappingNode):
        raise ConfigError(f"{source}: expected settings as 'name: value' lines")
    return Layer(source, values, dict(_node_lines(node)))


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """Return ``; did you mean 'x'?`` for the nearest known name, or nothing."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near else ""


def setting_names(settings_class: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Yield the dotted name of every setting."""
    for name, field in settings_class.model_fields.items():
        inner = _settings_in(field.annotation)
        if inner is not None:
            yield from setting_names(inner, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


ReadBy = Mapping[str, tuple[str, tuple[Any, ...]]]
"""By the beginning of settings' names: the setting that decides whether they are read, and for which values.

`{"loss.simcc_": ("model.head", ("simcc",))}`: settings `loss.simcc_*` are read if `model.head` is `simcc`.
The name `command` stands for the command that runs. Every entry that matches must hold.
"""


def idle_settings(settings: Settings, names: Iterable[str], read_by: ReadBy, command: str) -> dict[str, str]:
    """Return those of some settings that a command does not read, and why, as `model.kind is ease`.

    Args:
        settings: the resolved settings.
        names: dotted names to look at.
        read_by: the engine's table.
        command: the command that runs, as `train`.
    """
    values = {**dict(flatten(settings.model_dump(mode="json"))), "command": command}
    idle = {}
    for name in names:
        for start, (deciding, readers) in read_by.items():
            if name.startswith(start) and values[deciding] not in readers:
                idle[name] = f"{deciding} is {values[deciding]}"
    return idle


def _settings_in(annotation: Any) -> type[BaseModel] | None:
    """Return the settings class inside ``X`` or ``X | None``."""
    options = [annotation]
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        options = list(typing.get_args(annotation))
    found = [o for o in options if isinstance(o, type) and issubclass(o, BaseModel)]
    return found[0] if found else None


def _node_lines(node: yaml.MappingNode, prefix: str = "") -> Iterator[tuple[str, int]]:
    for key, value in node.value:
        name = f"{prefix}{key.value}"
        yield name, key.start_mark.line + 1
        if isinstance(value, yaml.MappingNode):
            yield from _node_lines(value, f"{name}.")


def _explain(settings_class: type[Settings], error: Any, sources: Mapping[str, str]) -> str:
    """Describe in one line what pydantic found: source, setting, problem and remedy."""
    name = ".".join(str(part) for part in error["loc"])
    given = [source for key, source in sources.items() if (key + ".").startswith(name + ".")]
    where = f"{given[-1]}: " if given and name else ""
    if error["type"] == "extra_forbidden":
        return f"{where}no such setting '{name}'{_nearest_setting(settings_class, name)}"
    problem: str = error["msg"].removeprefix("Value error, ")
    problem = problem[:1].lower() + problem[1:]
    if not name:
        return problem
    shown = "" if isinstance(error["input"], dict) else f", not {error['input']!r}"
    return f"{where}{name}: {problem}{shown}"


def _nearest_setting(settings_class: type[Settings], name: str) -> str:
    known = list(setting_names(settings_class))
    whole = did_you_mean(name, known)
    if whole:
        return whole
    by_last = {key.rsplit(".", 1)[-1]: key for key in known}
    near = difflib.get_close_matches(name.rsplit(".", 1)[-1], list(by_last), n=1, cutoff=0.7)
    if near:
        return f"; did you mean '{by_last[near[0]]}'?"
    return "; 'mmtk config show' lists every setting"


def _yaml_lines(values: Mapping[str, Any], sources: Mapping[str, str], prefix: str = "") -> Iterator[str]:
    indent = "  " * prefix.count(".")
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            yield f"{indent}{key}:"
            yield from _yaml_lines(value, sources, f"{name}.")
        else:
            yield f"{indent}{_flow(key)}: {_flow(value)}  # {sources.get(name, 'default')}"


def _flow(value: Any) -> str:
    """Write a value as YAML on one line."""
    text: str = yaml.safe_dump([value], default_flow_style=True, width=10_000)
    return text.strip()[1:-1]
