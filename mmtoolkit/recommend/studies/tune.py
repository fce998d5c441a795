"""Search for settings by their validation score, with Optuna; a search can be continued.

FOLDER/config.yaml    the settings that the search starts from
FOLDER/trials.log     every trial (Optuna's journal)
FOLDER/best.yaml      a preset for `mmtk recommend train --config`
FOLDER/tune.{json,md,png}
"""

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmtoolkit.core.config import Layer, Resolved, config_layer, flatten, nested, resolve
from mmtoolkit.core.errors import DivergenceError, RunError, UsageError
from mmtoolkit.core.extras import need
from mmtoolkit.core.logging import logger
from mmtoolkit.core.progress import progress_bar
from mmtoolkit.core.report import markdown_table
from mmtoolkit.core.run import check_new, write_atomic
from mmtoolkit.recommend.config import RecommendSettings
from mmtoolkit.recommend.data.dataset import RecommendData
from mmtoolkit.recommend.data.read import load_data
from mmtoolkit.recommend.studies.plots import plot_lines
from mmtoolkit.recommend.studies.space import SPACES, Space, parse_space
from mmtoolkit.recommend.training.loop import epochs
from mmtoolkit.recommend.training.state import set_up

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.trial import FrozenTrial


@dataclass(frozen=True)
class TuneResult:
    """The result of a search so far.

    Attributes:
        metric: validation metric that the search maximises.
        trials: numbers of complete, pruned and failed trials, by state.
        best: largest value of the metric.
        values: the settings that reached it, by dotted name.
        files: written files; the first one is the preset.
    """

    metric: str
    trials: dict[str, int]
    best: float
    values: dict[str, Any]
    files: list[Path]


def plan_tune(layers: Sequence[Layer], search: Sequence[str]) -> tuple[Resolved[RecommendSettings], Space]:
    """Resolve the settings that the search starts from, and validate the ends of its ranges.

    Raises:
        ConfigError: if a setting or an end of its range is not valid.
        UsageError: if there is nothing to search.
    """
    base = resolve(RecommendSettings, layers)
    kind = base.settings.model.kind
    space = parse_space(search) or SPACES[kind]
    if not space:
        raise UsageError(f"tune: {kind} has no settings to search; name some with `search` KEY=LOW:HIGH")
    for name, values in space.items():
        for value in values.ends():
            resolve(RecommendSettings, [*layers, Layer("`search`", nested(name, value))])
    return base, space


def tune(
    layers: Sequence[Layer],
    search: Sequence[str],
    output: Path,
    trials: int,
    minutes: float | None = None,
) -> TuneResult:
    """Search for the settings with the best validation score; the test split is never ranked.

    The first trial uses the settings that the search starts from. After its first `train.patience` epochs, a
    trial below the median of the others at the same epoch is pruned.

    Args:
        layers: settings to start from.
        search: settings to search, see :func:`parse_space`; default: :data:`SPACES`.
        output: a new or empty folder, or the folder of the same search, which then continues.
        trials: number of trials, including those of earlier calls.
        minutes: stop after this time, with the best result so far.

    Raises:
        UsageError: if Optuna is missing, or the folder holds another search.
        DataError: if the data set cannot be used; nothing has been written then.
        RunError: if no trial was finished.
    """
    optuna = need("optuna", "tune", "recommend tune")
    base, space = plan_tune(layers, search)
    data = load_data(base.settings.data.path)
    _claim(output, base, space)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = _open_study(output, base.settings)
    if not study.trials:
        _enqueue_base(study, base.settings, space)
    deadline = math.inf if minutes is None else time.monotonic() + 60 * minutes
    done = sum(trial.state.is_finished() for trial in study.trials)
    with progress_bar("trials", trials, done) as advance:
        for _ in range(trials - done):
            if time.monotonic() >= deadline:
                break
            trial = study.ask()
            values = {name: values.suggest(trial, name) for name, values in space.items()}
            settings = resolve(RecommendSettings, [*layers, *_as_layers(values)]).settings
            note = _run_trial(study, trial, settings, data, deadline)
            logger.info("trial %d: %s, %s", trial.number, note, values)
            advance(note)
    return _report(study, layers, base.settings.train.monitor, output)


def _claim(folder: Path, base: Resolved[RecommendSettings], space: Space) -> None:
    """Make the folder of a search, or refuse the folder of another search."""
    config, searched = folder / "config.yaml", folder / "space.json"
    text = json.dumps({name: repr(values) for name, values in space.items()}, indent=2) + "\n"
    if not config.is_file():
        check_new(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(searched, text)
        write_atomic(config, base.to_yaml())
        return
    before = resolve(RecommendSettings, [config_layer("recommend", str(config))]).settings
    if before != base.settings or not searched.is_file() or searched.read_text(encoding="utf-8") != text:
        raise UsageError(f"`output` {folder}: holds a search from other settings; name another folder")


def _open_study(folder: Path, settings: RecommendSettings) -> "Study":
    """Open the folder's study; trials that a kill interrupted count as failed."""
    import optuna
    from optuna.storages.journal import JournalFileBackend

    storage = optuna.storages.JournalStorage(JournalFileBackend(str(folder / "trials.log")))
    study = optuna.create_study(storage=storage, study_name="tune", direction="maximize", load_if_exists=True)
    # with the same seed a continued search would repeat its first suggestions
    study.sampler = optuna.samplers.TPESampler(seed=settings.seed + len(study.trials))
    study.pruner = optuna.pruners.MedianPruner(5, n_warmup_steps=settings.train.patience)
    for trial in study.trials:
        if trial.state == optuna.trial.TrialState.RUNNING:
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
    return study


def _enqueue_base(study: "Study", settings: RecommendSettings, space: Space) -> None:
    given = dict(flatten(settings.model_dump(mode="json")))
    if all(values.contains(given.get(name)) for name, values in space.items()):
        study.enqueue_trial({name: given[name] for name in space})


def _as_layers(values: Mapping[str, Any]) -> list[Layer]:
    return [Layer("tune", nested(name, value)) for name, value in values.items()]


def _run_trial(
    study: "Study", trial: "Trial", settings: RecommendSettings, data: RecommendData, deadline: float
) -> str:
    """Train with a trial's settings, add the result to the study, and return it in words."""
    from optuna.trial import TrialState

    training = set_up(settings, data)
    try:
        for record, _ in epochs(training):
            trial.report(record[settings.train.monitor], training.loop.epoch)
            late = time.monotonic() >= deadline and not training.finished
            if late or (trial.should_prune() and not training.finished):
                study.tell(trial, state=TrialState.PRUNED)
                return f"{'out of time' if late else 'pruned'} at epoch {training.loop.epoch}"
    except DivergenceError as error:
        study.tell(trial, state=TrialState.FAIL)
        return error.message
    study.tell(trial, training.best.score)
    return f"{settings.train.monitor} {training.best.score:.4f}"


def _report(study: "Study", layers: Sequence[Layer], metric: str, folder: Path) -> TuneResult:
    """Write the preset of the best trial, and a table and a plot of all trials."""
    from optuna.trial import TrialState

    finished = [trial for trial in study.trials if trial.state == TrialState.COMPLETE]
    if not finished:
        raise RunError(f"{folder}: no trial was finished; give more `minutes` or `trials`")
    best = study.best_trial
    states = {state.name.lower(): 0 for state in (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)}
    for trial in study.trials:
        if trial.state.is_finished():
            states[trial.state.name.lower()] += 1
    tuned = resolve(RecommendSettings, [*layers, *_as_layers(best.params)])
    reached = f"trial {best.number} of {len(study.trials)}, {metric} {study.best_value:.4f}"
    head = f"# Tuned on the validation split only: {reached}.\n"
    files = [folder / f"{name}" for name in ("best.yaml", "tune.json", "tune.md", "tune.png")]
    write_atomic(files[0], head + tuned.to_yaml())
    rows = [
        {"trial": t.number, "state": t.state.name.lower(), "value": t.value, **t.params} for t in study.trials
    ]
    write_atomic(
        files[1], json.dumps({"metric": metric, "best": best.number, "trials": rows}, indent=2) + "\n"
    )
    write_atomic(files[2], markdown_table(*trial_table(rows, metric)))
    _draw(finished, metric, files[3])
    return TuneResult(metric, states, study.best_value, dict(best.params), files)


def trial_table(rows: Sequence[Mapping[str, Any]], metric: str) -> tuple[list[str], list[list[str]]]:
    """Arrange trials as a table, the best first."""
    names = [name for name in rows[0] if name not in ("trial", "state", "value")]
    ordered = sorted(rows, key=lambda row: -math.inf if row["value"] is None else row["value"], reverse=True)
    cells = [
        [
            str(row["trial"]),
            row["state"],
            "" if row["value"] is None else f"{row['value']:.4f}",
            *(_short(row.get(name)) for name in names),
        ]
        for row in ordered
    ]
    return ["trial", "state", metric, *names], cells


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _draw(finished: "Sequence[FrozenTrial]", metric: str, path: Path) -> None:
    values = [(float(trial.number), float(trial.value or 0), 0.0) for trial in finished]
    best = [(trial, max(v for _, v, _ in values[: n + 1]), 0.0) for n, (trial, _, _) in enumerate(values)]
    plot_lines(
        {"trial": values, "best so far": best}, path, x="trial", y=f"validation {metric}", title="Search"
    )
