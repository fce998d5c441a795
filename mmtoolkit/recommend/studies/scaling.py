"""Measure the cost of an epoch for growing numbers of items and users, on synthetic data."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from mmtoolkit.core.device import peak_memory
from mmtoolkit.core.errors import UsageError
from mmtoolkit.core.progress import progress_bar
from mmtoolkit.core.report import markdown_table
from mmtoolkit.core.run import write_atomic
from mmtoolkit.recommend.config import DataSettings, RecommendSettings
from mmtoolkit.recommend.data.synthetic import make_large
from mmtoolkit.recommend.studies.plots import plot_lines
from mmtoolkit.recommend.studies.study import worker_pool
from mmtoolkit.recommend.training.loop import train_epoch
from mmtoolkit.recommend.training.state import set_up

MEASURED_EPOCHS = 3
"""Number of epochs, after a first one for warm-up, whose median is reported."""

LONG_ENOUGH = 60.0
"""Seconds of measured epochs after which no epoch is added."""


@dataclass(frozen=True)
class Size:
    """One size to measure, the settings as JSON, and the file of the result."""

    users: int
    items: int
    settings: str
    path: Path


@dataclass(frozen=True)
class Cost:
    """The cost of an epoch at one size.

    Attributes:
        users: number of users.
        items: number of items.
        seconds: of an epoch by stage; `epoch` is the whole epoch.
        memory: peak memory of the process, without what it used before the data, in bytes.
        recall: share of the true largest entries of denoised rows that the search among candidates finds; 1
            if all items are searched.
    """

    users: int
    items: int
    seconds: dict[str, float]
    memory: int
    recall: float = 1.0


def plan_scaling(
    settings: RecommendSettings, folder: Path, items: Sequence[int], users: Sequence[int]
) -> list[Size]:
    """Plan growing items with the first number of users, and growing users with the first number of items."""
    text = settings.model_copy(update={"data": DataSettings()}).model_dump_json()
    sizes = [(users[0], n) for n in items] + [(n, items[0]) for n in users[1:]]
    return [Size(u, i, text, folder / "members" / f"{u}-users-{i}-items.json") for u, i in sizes]


def run_scaling(sizes: Sequence[Size]) -> None:
    """Measure every size that has no result yet, one at a time.

    Raises:
        UsageError: if the folder holds measurements with other settings.
    """
    for size in sizes:
        if size.path.is_file():
            before = json.loads(size.path.read_text(encoding="utf-8"))["settings"]
            if before != json.loads(size.settings):
                raise UsageError(
                    f"`output`: {size.path} was measured with other settings; name another folder"
                )
    todo = [size for size in sizes if not size.path.is_file()]
    with progress_bar("sizes", len(sizes), len(sizes) - len(todo)) as advance:
        for size in todo:
            # a new process for each size, because the peak memory of a process never falls
            with worker_pool(1) as pool:
                pool.submit(measure, size).result()
            advance("")


def measure(size: Size) -> None:
    """Train some epochs on synthetic data of a size and write their cost."""
    settings = RecommendSettings.model_validate_json(size.settings)
    cpu = torch.device("cpu")
    before = peak_memory(cpu)
    data = make_large(size.users, size.items, settings.graph.neighbours)
    training = set_up(settings, data)
    train_epoch(training)
    records: list[dict[str, Any]] = []
    while len(records) < MEASURED_EPOCHS and sum(r["seconds"] for r in records) < LONG_ENOUGH:
        records.append(train_epoch(training))
    stages = [name for name in records[0] if name.startswith("seconds")]
    seconds = {
        name.removeprefix("seconds_").replace("seconds", "epoch"): median(r[name] for r in records)
        for name in stages
    }
    peak = peak_memory(training.loop.device)
    memory = peak - before if training.loop.device.type == "cpu" else peak
    recall = float(records[-1].get("search_recall", 1.0))
    cost = Cost(size.users, size.items, seconds, memory, recall)
    size.path.parent.mkdir(parents=True, exist_ok=True)
    content: dict[str, Any] = asdict(cost) | {"settings": json.loads(size.settings)}
    write_atomic(size.path, json.dumps(content, indent=2) + "\n")


def report_scaling(
    sizes: Sequence[Size], folder: Path
) -> tuple[list[Cost], dict[str, dict[str, float]], list[Path]]:
    """Fit an exponent to every stage, and write scaling.{json,md} and a plot for each axis.

    Returns:
        The costs, the exponents by axis and stage, and the files.
    """
    costs = [_read(size.path) for size in sizes]
    first = costs[0]
    axes = {
        "items": [cost for cost in costs if cost.users == first.users],
        "users": [cost for cost in costs if cost.items == first.items],
    }
    exponents = {axis: fit_exponents(axis, some) for axis, some in axes.items() if len(some) > 1}
    files = [folder / "scaling.json", folder / "scaling.md"]
    content = {"costs": [asdict(cost) for cost in costs], "exponents": exponents}
    write_atomic(files[0], json.dumps(content, indent=2) + "\n")
    tables = markdown_table(*cost_table(costs)) + "\n" + markdown_table(*exponent_table(exponents))
    write_atomic(files[1], tables)
    for axis, fitted in exponents.items():
        path = folder / f"scaling_{axis}.png"
        _draw(axis, axes[axis], fitted, path)
        files.append(path)
    return costs, exponents, files


def _read(path: Path) -> Cost:
    content = json.loads(path.read_text(encoding="utf-8"))
    del content["settings"]
    return Cost(**content)


def fit_exponents(axis: str, costs: Sequence[Cost]) -> dict[str, float]:
    """Fit cost ~ size^exponent to every stage and to the memory, by least squares of the logarithms."""
    sizes = np.log([getattr(cost, axis) for cost in costs])
    values = {stage: [cost.seconds[stage] for cost in costs] for stage in costs[0].seconds}
    values["memory"] = [float(cost.memory) for cost in costs]
    return {
        stage: float(np.polyfit(sizes, np.log(np.maximum(1e-6, found)), 1)[0])
        for stage, found in values.items()
    }


def cost_table(costs: Sequence[Cost]) -> tuple[list[str], list[list[str]]]:
    """Arrange the costs as a table: a row per size."""
    stages = list(costs[0].seconds)
    rows = [
        [
            f"{cost.items:,}",
            f"{cost.users:,}",
            *(f"{cost.seconds[stage]:.3f}" for stage in stages),
            f"{cost.memory / 2**20:,.0f}",
            f"{cost.recall:.3f}",
        ]
        for cost in costs
    ]
    return ["items", "users", *(f"{stage} s" for stage in stages), "MiB", "search recall"], rows


def exponent_table(exponents: dict[str, dict[str, float]]) -> tuple[list[str], list[list[str]]]:
    """Arrange the exponents as a table: a row per axis."""
    stages = list(next(iter(exponents.values()), {}))
    rows = [[axis, *(f"{found[stage]:.2f}" for stage in stages)] for axis, found in exponents.items()]
    return ["exponent in", *stages], rows


def _draw(axis: str, costs: Sequence[Cost], exponents: dict[str, float], path: Path) -> None:
    curves = {}
    for stage, exponent in exponents.items():
        if stage != "memory":
            points = [(float(getattr(cost, axis)), max(1e-4, cost.seconds[stage]), 0.0) for cost in costs]
            curves[f"{stage} (exponent {exponent:.2f})"] = points
    plot_lines(curves, path, x=axis, y="seconds an epoch", title=f"Cost against {axis}", logarithmic=True)
