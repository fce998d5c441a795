"""Train LCM, PCM, TCD and TDD at an equal budget from one teacher, and put them side by side."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from mmtoolkit.core.config import Layer, Resolved, did_you_mean, flatten, nested, resolve
from mmtoolkit.core.device import describe_device
from mmtoolkit.core.errors import UsageError
from mmtoolkit.core.logging import logger
from mmtoolkit.core.plots import plot_curves
from mmtoolkit.core.report import markdown_table, write_report
from mmtoolkit.core.run import LAST, RunDirectory
from mmtoolkit.distill.config import DistillSettings
from mmtoolkit.distill.evaluation.judge import FEATURES_FILE, Bench, judge, make_bench
from mmtoolkit.distill.load import TrainedRun, load_run, run_settings
from mmtoolkit.distill.report import Cell, flat_cell, teacher_table
from mmtoolkit.distill.sampling.generate import save_grid
from mmtoolkit.distill.train import train
from mmtoolkit.distill.training.targets import RULES

Table = tuple[list[str], list[list[str]]]
VARIANTS: dict[str, dict[str, object]] = {
    **{rule: {"rule": rule} for rule in RULES},
    "tdd-coupled": {"rule": "tdd", "drop": 0.0},
}
"""What can be compared, and its changes of `targets`; coupled students never lose their condition."""
ALL = ("lcm", "pcm", "tcd", "tdd")
METRICS = ("fid", "trajectory_error")


@dataclass(frozen=True)
class Comparison:
    """What a comparison measured.

    Attributes:
        scores: cells of every student, by rule and seed.
        teacher: of the teacher itself, by guidance in teacher units.
    """

    scores: dict[str, dict[int, list[Cell]]]
    teacher: dict[float, dict[str, float]]


@dataclass(frozen=True)
class Entry:
    """A student to judge: one of the comparison's own, or an existing run."""

    rule: str
    settings: DistillSettings
    run: RunDirectory
    taken: bool


def compare(
    resolved: Resolved[DistillSettings],
    run: RunDirectory,
    rules: Sequence[str],
    seeds: int,
    take: Sequence[str] = (),
) -> Comparison:
    """Train (or take) one student for each rule and seed, and measure all in the same way.

    Args:
        resolved: settings of every student; `targets.rule` and `seed` are varied.
        run: folder of the comparison; students go below it, as `tdd-s0`. A stopped comparison continues.
        rules: some of lcm, pcm, tcd, tdd, tdd-coupled.
        seeds: students of each rule, with seeds from the settings' own upwards.
        take: runs of `distill train` as `RULE=RUN`; a rule that has some is taken from them alone.

    Raises:
        UsageError: if a rule is unknown or named twice, or a run is of another rule, teacher or w.
        CheckpointError: if there is no such run.
    """
    if unknown := [rule for rule in rules if rule not in VARIANTS]:
        near = did_you_mean(unknown[0], list(VARIANTS))
        raise UsageError(f"`rule`: no rule '{unknown[0]}'{near} (known: {', '.join(VARIANTS)})")
    if len(set(rules)) < len(rules) or not rules:
        raise UsageError("`rule`: name each rule once")
    entries = [_taken(text, resolved.settings) for text in take]
    taken = {entry.rule for entry in entries}
    if len({(entry.rule, entry.settings.seed) for entry in entries}) < len(entries):
        raise UsageError("`take`: two runs of one rule have the same seed; take one of them")
    rules = [*rules, *sorted(taken - set(rules))]
    first = resolved.settings.seed
    for seed, rule in itertools.product(range(first, first + seeds), rules):
        entries += [] if rule in taken else [_entry(resolved, run.path, rule, seed)]
    scores: dict[str, dict[int, list[Cell]]] = {rule: {} for rule in rules}
    bench: Bench | None = None
    teacher: dict[float, dict[str, float]] = {}
    run.start()
    for entry in entries:
        student = _open(entry)
        bench = bench or make_bench(student, run.path / FEATURES_FILE)
        found = judge(student, bench)
        seed = entry.settings.seed
        scores[entry.rule][seed], teacher = found.cells, found.teacher
        pictures = torch.cat(list(found.pictures.values()))
        columns = len(next(iter(found.pictures.values())))
        save_grid(pictures, columns, run.path / f"{entry.rule}-s{seed}.png")
        _write(run, Comparison(scores, teacher), resolved.settings, take)
    return Comparison(scores, teacher)


def _taken(text: str, asked: DistillSettings) -> Entry:
    """Find the run behind `RULE=RUN` and check that it can be compared with the others."""
    rule, _, name = text.partition("=")
    if rule not in VARIANTS or not name:
        raise UsageError(f"`take` {text}: write RULE=RUN, with one of {', '.join(VARIANTS)}")
    run = RunDirectory.open(Path(name))
    run.checkpoint()
    own = run_settings(run)
    shared = ("model.family", "model.base", "model.layout", "model.embedded_guidance", "targets.guidance")
    wanted = {key: value for key, value in flatten(asked.model_dump(mode="json")) if key in shared}
    wanted |= {f"targets.{key}": value for key, value in VARIANTS[rule].items()}
    for key, value in flatten(own.model_dump(mode="json")):
        if key in wanted and value != wanted[key]:
            raise UsageError(f"`take` {text}: has {key} {value}, but this comparison needs {wanted[key]}")
    judged = {"device": asked.device, "evaluate": asked.evaluate, "data": asked.data}
    return Entry(rule, own.model_copy(update=judged), run, taken=True)


def _open(entry: Entry) -> TrainedRun:
    """Open a student, after training or finishing it if it is the comparison's own."""
    if not entry.taken and not entry.run.results_path.is_file():
        logger.info("training %s with seed %d", entry.rule, entry.settings.seed)
        train(entry.settings, entry.run, resume=(entry.run.checkpoints / LAST).exists())
    return load_run(RunDirectory.open(entry.run.path), entry.settings)


def _entry(resolved: Resolved[DistillSettings], path: Path, rule: str, seed: int) -> Entry:
    """Plan the student of a rule and seed, or find the existing one."""
    values = {"targets": VARIANTS[rule], "seed": seed}
    layers = [Layer(source, nested(name, value)) for name, value, source in _given(resolved)]
    own = resolve(DistillSettings, [*layers, Layer("compare", values)])
    folder = path / f"{rule}-s{seed}"
    exists = (folder / "checkpoints" / LAST).exists()
    student = RunDirectory.open(folder) if exists else RunDirectory(folder, own.to_yaml())
    return Entry(rule, own.settings, student, taken=False)


def _given(resolved: Resolved[DistillSettings]) -> list[tuple[str, object, str]]:
    values = dict(flatten(resolved.settings.model_dump(mode="json")))
    return [(name, value, resolved.sources.get(name, "default")) for name, value in values.items()]


def metrics_of(comparison: Comparison) -> list[str]:
    """Return the metrics to show: the score of a CLIP only if one was named."""
    some = next(cells for seeds in comparison.scores.values() for cells in seeds.values())
    return [*METRICS, *(name for name in ("clip_score",) if name in some[0].metrics)]


def comparison_table(comparison: Comparison, metric: str) -> Table:
    """Arrange one metric: a row for each cell, a column for each rule, mean (and spread) over seeds."""
    rules = [rule for rule, seeds in comparison.scores.items() if seeds]
    cells = next(iter(comparison.scores[rules[0]].values()))
    rows = []
    for index, cell in enumerate(cells):
        values = {
            rule: np.array([found[index].metrics[metric] for found in comparison.scores[rule].values()])
            for rule in rules
        }
        better = max if metric == "clip_score" else min
        best = better(values, key=lambda rule: values[rule].mean())
        shown = [_mean(value) + (" *" if rule == best else "") for rule, value in values.items()]
        rows.append([str(cell.steps), f"{cell.eta:g}", f"{cell.guidance:g}", *shown])
    return ["steps", "eta", "guidance", *rules], rows


def _mean(values: np.ndarray) -> str:
    spread = f" ({values.std(ddof=1):.3f})" if len(values) > 1 else ""
    return f"{values.mean():.4f}{spread}"


def _write(run: RunDirectory, comparison: Comparison, settings: DistillSettings, take: Sequence[str]) -> None:
    """Write results.json, curves and report.html of the students measured so far."""
    dumped = {
        rule: {seed: [vars(cell) for cell in cells] for seed, cells in seeds.items()}
        for rule, seeds in comparison.scores.items()
    }
    device = describe_device(torch.device(settings.device if settings.device != "auto" else "cpu"))
    run.write_results({"scores": dumped, "teacher": comparison.teacher, "device": device})
    metrics = metrics_of(comparison)
    tables = {f"{metric}, best marked": comparison_table(comparison, metric) for metric in metrics}
    tables["the teacher itself"] = teacher_table(comparison.teacher)
    curves = [_curve(run.path, comparison, metric) for metric in metrics]
    curves += [_guidance_curve(run.path, comparison, steps) for steps in settings.evaluate.steps]
    facts = {"students": f"{settings.train.steps} steps of {settings.train.batch_size}, one teacher"}
    facts |= {"taken unchanged": ", ".join(take)} if take else {}
    write_report(
        run.path / "report.html",
        "distill compare",
        facts,
        tables,
        [*(curve for curve in curves if curve), *sorted(run.path.glob("*-s*.png"))],
        run.config_path.read_text(encoding="utf-8"),
    )
    text = "\n".join(f"{title}\n\n{markdown_table(*table)}" for title, table in tables.items())
    (run.path / "tables.md").write_text(text, encoding="utf-8")


def _curve(path: Path, comparison: Comparison, metric: str) -> Path | None:
    """Draw a metric over steps, at eta 0 and the guidance of training."""
    records: dict[int, dict[str, float]] = {}
    for rule, seeds in comparison.scores.items():
        for cells in seeds.values():
            least = min(cell.guidance for cell in cells)
            for cell in cells:
                if cell.eta == 0 and cell.guidance == least:
                    record = records.setdefault(cell.steps, {"steps": cell.steps})
                    record[rule] = record.get(rule, 0.0) + cell.metrics[metric] / len(seeds)
    rows = [records[steps] for steps in sorted(records)]
    target = path / "plots" / f"{metric}.png"
    return plot_curves(rows, list(comparison.scores), target, x="steps", title=f"{metric}, eta 0")


def _guidance_curve(path: Path, comparison: Comparison, steps: int) -> Path | None:
    """Draw FID to the data over guidance in teacher units, at eta 0, beside the teacher's own 50 steps."""
    records = {
        guidance: {"guidance": guidance, "teacher": found["fid_data"]}
        for guidance, found in comparison.teacher.items()
    }
    for rule, seeds in comparison.scores.items():
        for cell in (cell for cells in seeds.values() for cell in cells):
            if cell.eta == 0 and cell.steps == steps:
                record = records[cell.guidance]
                record[rule] = record.get(rule, 0.0) + cell.metrics["fid_data"] / len(seeds)
    if len(records) < 2:
        return None
    rows = [records[guidance] for guidance in sorted(records)]
    target, title = path / "plots" / f"guidance-{steps}.png", f"fid to the data, {steps} steps, eta 0"
    return plot_curves(rows, ["teacher", *comparison.scores], target, x="guidance", title=title)


def flat_comparison(comparison: Comparison) -> dict[str, float]:
    """Name the mean over seeds of every number for --json, as `tdd,fid@4,eta=0,guidance=2`."""
    flat: dict[str, float] = {}
    for rule, seeds in comparison.scores.items():
        for cells in seeds.values():
            for cell in cells:
                for name, value in flat_cell(cell).items():
                    flat[f"{rule},{name}"] = flat.get(f"{rule},{name}", 0.0) + value / len(seeds)
    return flat
