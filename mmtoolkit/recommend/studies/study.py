"""Studies of many runs in one folder: a repeated study keeps finished members and resumes stopped ones.

FOLDER/members/<name>-s<seed>/   the runs
FOLDER/*.{json,md,png}           their comparison
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from mmtoolkit.core.config import Layer, Resolved, Values, config_layer, nested, resolve
from mmtoolkit.core.errors import UsageError
from mmtoolkit.core.logging import setup_logging
from mmtoolkit.core.progress import progress_bar
from mmtoolkit.core.report import markdown_table
from mmtoolkit.core.run import LAST, RunDirectory, write_atomic
from mmtoolkit.recommend.compare import Comparison, compare
from mmtoolkit.recommend.config import RecommendSettings
from mmtoolkit.recommend.data.read import load_data
from mmtoolkit.recommend.studies.plots import plot_lines, with_deviation, write_comparison
from mmtoolkit.recommend.train import train

FULL = "full"
ABLATIONS: dict[str, Values] = {
    FULL: {},
    "without diffusion": {"model": {"item_graph": "semantic"}, "train": {"contrast_on_semantic": True}},
    "without diffusion, without contrast": {"model": {"item_graph": "semantic"}},
    "without guidance": {"diffusion": {"guidance": 0}},
    "without behavioural condition": {"graph": {"behaviour_condition": False}, "diffusion": {"guidance": 0}},
    "without contrast": {"train": {"contrast_weight": 0}},
    "without history": {"history": {"weight": 0}},
}
"""Changes that remove one part of the method, by label."""
ROBUSTNESS_PEERS = ("freedom", "lightgcn")
NOISE = {"false links": "data.false_links", "feature noise": "data.feature_noise"}
"""Settings that add noise to the data, by label."""

Task = TypeVar("Task")


@dataclass(frozen=True)
class Member:
    """One training run of a study.

    Attributes:
        label: group of the run; it does not depend on the seed.
        path: its folder.
        resolved: its settings.
    """

    label: str
    path: Path
    resolved: Resolved[RecommendSettings]

    @property
    def finished(self) -> bool:
        """Whether it has been trained and tested."""
        return RunDirectory(self.path).results_path.is_file()


def plan_ablation(base: Sequence[Layer], folder: Path, seeds: int) -> list[Member]:
    """Plan the full method, and the method without each of its parts, for some seeds.

    Args:
        base: layers of settings of the full method.
        folder: of the study.
        seeds: number of seeds, from 0.

    Raises:
        ConfigError: if a setting is wrong.
        UsageError: if the base is not IGDMRec with a denoised item graph.
    """
    settings = resolve(RecommendSettings, base).settings
    if settings.model.kind != "igdmrec" or settings.model.item_graph != "denoised":
        raise UsageError("study ablation: needs model.kind igdmrec and model.item_graph denoised")
    return [
        _member(label, [*base, Layer("study", changes)], folder, seed)
        for label, changes in ABLATIONS.items()
        if label == FULL or resolve(RecommendSettings, [*base, Layer("study", changes)]).settings != settings
        for seed in range(seeds)
    ]


def plan_robustness(
    base: Sequence[Layer],
    changes: Sequence[Layer],
    folder: Path,
    seeds: int,
    levels: Mapping[str, Sequence[float]],
) -> list[Member]:
    """Plan a method, FREEDOM and LightGCN with increasing false links and feature noise.

    The peers use their own presets, with the data, the evaluation and the `changes` of the base. LightGCN
    uses neither links nor features and is trained once per seed.

    Args:
        base: layers of settings of the method.
        changes: layers for every model, such as those of the command line.
        folder: of the study.
        seeds: number of seeds, from 0.
        levels: by kind of noise (:data:`NOISE`), the amounts.
    """
    settings = resolve(RecommendSettings, [*base, *changes]).settings
    shared = settings.model_dump(mode="json", include={"data", "evaluate", "device"})
    models: dict[str, list[Layer]] = {settings.model.kind: [*base, *changes]}
    for peer in ROBUSTNESS_PEERS:
        models.setdefault(peer, [config_layer("recommend", peer), Layer("study", shared), *changes])
    members = []
    for seed in range(seeds):
        for model, layers in models.items():
            members.append(_member(model, layers, folder, seed))
            for what, amounts in levels.items() if model != "lightgcn" else ():
                for amount in amounts:
                    if amount:
                        noise = Layer("study", nested(NOISE[what], amount))
                        members.append(_member(f"{model} {what} {amount:g}", [*layers, noise], folder, seed))
    return members


def possible_noise(base: Sequence[Layer]) -> list[str]:
    """Return the kinds of noise for a data set: links always, features if every modality has some.

    Raises:
        DataError: if the data set cannot be used.
    """
    data = load_data(resolve(RecommendSettings, base).settings.data.path)
    has_features = all(modality.features is not None for modality in data.modalities.values())
    return list(NOISE) if has_features else ["false links"]


def _member(label: str, layers: Sequence[Layer], folder: Path, seed: int) -> Member:
    resolved = resolve(RecommendSettings, [*layers, Layer("study", {"seed": seed})])
    name = label.replace(",", "").replace(" ", "-")
    return Member(label, folder / "members" / f"{name}-s{seed}", resolved)


def run_members(members: Sequence[Member], jobs: int) -> None:
    """Train every member that is not finished, `jobs` at a time.

    Raises:
        UsageError: if a member's folder was made with other settings.
        DataError: if the data set cannot be used; nothing has been written then.
    """
    for path in {member.resolved.settings.data.path for member in members}:
        load_data(path)
    for member in members:
        _check_same(member)
    open_tasks = [member for member in members if not member.finished]
    run_all(run_member, open_tasks, jobs, done=len(members) - len(open_tasks))


def _check_same(member: Member) -> None:
    run = RunDirectory(member.path)
    if not run.config_path.is_file():
        return
    before = resolve(RecommendSettings, [config_layer("recommend", str(run.config_path))]).settings
    if before != member.resolved.settings:
        raise UsageError(
            f"`output`: {member.path} was trained with other settings; name another folder for this study"
        )


def run_member(member: Member) -> None:
    """Train a member, from its last checkpoint if it has one."""
    run = RunDirectory(member.path)
    resume = (run.checkpoints / LAST).exists()
    if not run.config_path.is_file():
        run = RunDirectory(member.path, member.resolved.to_yaml())
    elif not resume:
        run.rewind_metrics("epoch", 0)
    train(member.resolved.settings, run, resume=resume)


def run_all(work: Callable[[Task], None], tasks: Sequence[Task], jobs: int, *, done: int = 0) -> None:
    """Run tasks one after the other in this process, or several at once in processes that share the threads.

    Args:
        work: runs one task; a function of a module, so that other processes can import it.
        tasks: its arguments.
        jobs: number of tasks at once; 1 runs them in this process.
        done: number of tasks that were finished before, for the progress bar.
    """
    with progress_bar("members", done + len(tasks), done) as advance:
        if jobs == 1:
            for task in tasks:
                work(task)
                advance("")
            return
        pool = worker_pool(jobs)
        try:
            for future in as_completed([pool.submit(work, task) for task in tasks]):
                future.result()
                advance("")
        finally:
            pool.shutdown(cancel_futures=True)


def worker_pool(jobs: int) -> ProcessPoolExecutor:
    """Return a pool of new processes that share this one's threads."""
    threads = max(1, torch.get_num_threads() // jobs)
    return ProcessPoolExecutor(
        jobs, mp_context=get_context("spawn"), initializer=_start_worker, initargs=(threads,)
    )


def _start_worker(threads: int) -> None:
    setup_logging(-1)
    os.environ["OMP_NUM_THREADS"] = str(threads)
    torch.set_num_threads(threads)


def report_ablation(members: Sequence[Member], folder: Path) -> tuple[Comparison, list[Path]]:
    """Compare the members with the full method and write comparison.{json,md,png}."""
    labels = {member.path: member.label for member in members}
    found = compare([member.path for member in members], labels=labels)
    return found, write_comparison(found, folder, FULL)


@dataclass(frozen=True)
class Degradation:
    """The test metric of a model on data with some noise.

    Attributes:
        model: name.
        spoilt: kind of noise, see :data:`NOISE`, or `nothing`.
        amount: of the noise.
        mean: test metric, averaged over seeds.
        deviation: standard deviation over the seeds; None for one seed.
        kept: mean divided by the same model's mean on clean data.
    """

    model: str
    spoilt: str
    amount: float
    mean: float
    deviation: float | None
    kept: float


def report_robustness(members: Sequence[Member], folder: Path) -> tuple[str, list[Degradation], list[Path]]:
    """Read the members' test scores, and write robustness.{json,md} and a plot for each kind of noise.

    Returns:
        The metric, the scores and the files.
    """
    metric = members[0].resolved.settings.train.monitor
    scores: dict[str, list[float]] = {}
    for member in members:
        results = json.loads(RunDirectory(member.path).results_path.read_text(encoding="utf-8"))
        scores.setdefault(member.label, []).append(results["test"][metric])
    rows = list(_degradations(scores))
    files = [folder / "robustness.json", folder / "robustness.md"]
    content: dict[str, Any] = {"metric": metric, "rows": [vars(row) for row in rows]}
    write_atomic(files[0], json.dumps(content, indent=2) + "\n")
    write_atomic(files[1], markdown_table(*robustness_table(rows, metric)))
    for what in sorted({row.spoilt for row in rows if row.spoilt in NOISE}):
        path = folder / f"{what.replace(' ', '_')}.png"
        _draw(rows, what, metric, path)
        files.append(path)
    return metric, rows, files


def _degradations(scores: Mapping[str, Sequence[float]]) -> Iterator[Degradation]:
    for label, values in scores.items():
        model, _, spoilt = label.partition(" ")
        what, _, amount = spoilt.rpartition(" ")
        mean = float(np.mean(values))
        deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
        kept = mean / max(1e-12, float(np.mean(scores[model])))
        yield Degradation(model, what or "nothing", float(amount or 0), mean, deviation, kept)


def robustness_table(rows: Sequence[Degradation], metric: str) -> tuple[list[str], list[list[str]]]:
    """Arrange the scores as a table: a row per model and amount."""
    cells = [
        [row.model, row.spoilt, f"{row.amount:g}", with_deviation(row.mean, row.deviation), f"{row.kept:.1%}"]
        for row in rows
    ]
    return ["model", "noise", "amount", metric, "kept"], cells


def _draw(rows: Sequence[Degradation], what: str, metric: str, path: Path) -> None:
    curves: dict[str, list[tuple[float, float, float]]] = {}
    levels = {}
    for row in rows:
        if row.spoilt in (what, "nothing"):
            curves.setdefault(row.model, []).append((row.amount, row.mean, row.deviation or 0.0))
    for model in [name for name, points in curves.items() if len(points) == 1]:
        ((_, mean, deviation),) = curves.pop(model)
        levels[f"{model} (sees none)"] = (mean, deviation)
    curves = {name: sorted(points) for name, points in curves.items()}
    plot_lines(curves, path, x=what, y=f"test {metric}", title=f"Robustness to {what}", levels=levels)
