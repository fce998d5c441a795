"""Turn the options of a training command into settings and a run folder, for every engine."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

from mmtoolkit.core.config import (
    Layer,
    ReadBy,
    Resolved,
    SettingsT,
    config_layer,
    flatten,
    idle_settings,
    nested,
    resolve,
    set_layers,
)
from mmtoolkit.core.errors import UsageError
from mmtoolkit.core.logging import logger
from mmtoolkit.core.run import RunDirectory, default_run_path


@dataclass(frozen=True)
class Plan(Generic[SettingsT]):
    """What a training command is about to do."""

    resolved: Resolved[SettingsT]
    run: RunDirectory
    resume: bool


def flag_layers(flags: Mapping[str, Any]) -> list[Layer]:
    """Turn flags that were given, such as `{"data.path": Path("baby")}`, into layers."""
    return [
        Layer(f"--{name.removesuffix('.path')}", nested(name, str(value)))
        for name, value in flags.items()
        if value is not None
    ]


def command_layers(assignments: Sequence[str] | None, flags: Mapping[str, Any]) -> list[Layer]:
    """Turn what the command line changes, `--set` and flags, into layers; flags count more."""
    return [*set_layers(assignments or []), *flag_layers(flags)]


def plan_training(
    engine: str,
    settings_class: type[SettingsT],
    config: str | None,
    changes: Sequence[Layer],
    resume: Path | None,
    output: Path | None,
    changeable: Sequence[str],
) -> Plan[SettingsT]:
    """Plan a new run, or the rest of the run `resume`; see :func:`plan_run` and :func:`plan_resume`."""
    if resume:
        return plan_resume(settings_class, resume, config, changes, output, changeable)
    return plan_run(engine, settings_class, config, changes, output)


def warn_of_idle_settings(resolved: Resolved[SettingsT], read_by: ReadBy, command: str) -> None:
    """Warn of settings given by `--set` that the command does not read; files may serve several commands."""
    given = [name for name, source in resolved.sources.items() if source == "--set"]
    for name, reason in idle_settings(resolved.settings, given, read_by, command).items():
        logger.warning("--set %s: without effect, as %s", name, reason)


def plan_run(
    engine: str,
    settings_class: type[SettingsT],
    config: str | None,
    changes: Sequence[Layer],
    output: Path | None,
) -> Plan[SettingsT]:
    """Resolve the settings of a new run and name its folder; nothing is written.

    Raises:
        ConfigError: if a setting is wrong.
        UsageError: if `output` is not empty.
    """
    layers = [config_layer(engine, config)] if config else []
    resolved = resolve(settings_class, [*layers, *changes])
    seed = resolved.settings.model_dump()["seed"]
    name = Path(config).stem if config else "default"
    path = output or default_run_path(engine, name, seed)
    return Plan(resolved, RunDirectory.new(path, resolved.to_yaml()), resume=False)


def plan_resume(
    settings_class: type[SettingsT],
    run_path: Path,
    config: str | None,
    changes: Sequence[Layer],
    output: Path | None,
    changeable: Sequence[str],
) -> Plan[SettingsT]:
    """Take the settings of an earlier run, with the few changes that do not alter its course.

    Raises:
        UsageError: if `config` or `output` is given too, or another setting changes.
        CheckpointError: if there is no such run.
    """
    if config or output:
        raise UsageError("--resume takes the run's own settings and folder; leave out -c and -o")
    run = RunDirectory.open(run_path)
    before = resolve(settings_class, [_layer_of(run)])
    resolved = resolve(settings_class, [_layer_of(run), *changes])
    old = dict(flatten(before.settings.model_dump(mode="json")))
    for name, value in flatten(resolved.settings.model_dump(mode="json")):
        if name not in changeable and old.get(name) != value:
            raise UsageError(
                f"{name} cannot change when a run is resumed ({old.get(name)} there); "
                f"only {', '.join(changeable)} can"
            )
    return Plan(resolved, run, resume=True)


def _layer_of(run: RunDirectory) -> Layer:
    return config_layer("", str(run.config_path))
