"""What a training run leaves for people: its result, tables, plots and report.html."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmtoolkit.core import report as core
from mmtoolkit.core.report import draw_curves
from mmtoolkit.core.run import RunDirectory
from mmtoolkit.recommend.data.dataset import RecommendData

if TYPE_CHECKING:
    from mmtoolkit.recommend.evaluate import Evaluation

GRAPHS = {
    "purity_semantic": "semantic (from the features)",
    "purity_behaviour": "behavioural (from the interactions)",
    "purity_denoised": "denoised (used to recommend)",
}
"""Names of the item graphs in tables."""

CURVES = {
    "validation": ["recall@10", "recall@20", "ndcg@10", "ndcg@20"],
    "losses": ["loss_recommender"],
    "diffusion": ["loss_diffusion"],
    "graph": ["kept_semantic_edges", "purity_denoised"],
    "seconds": ["seconds_diffusion", "seconds_denoising", "seconds_recommender", "seconds_evaluation"],
}
"""Columns of metrics.jsonl in each plot of a run."""

Table = tuple[list[str], list[list[str]]]
"""Column names, and rows of cells."""


@dataclass(frozen=True)
class TrainResult:
    """What a finished run measured; metrics are fractions by name, such as `recall@20`.

    Attributes:
        epochs: number of trained epochs.
        best_epoch: epoch of the best validation score, whose weights were restored.
        validation: metrics of that epoch on the validation split.
        test: metrics of that epoch on the test split.
        graphs: share of each item graph's edges within a known group, if groups are known.
    """

    epochs: int
    best_epoch: int
    validation: dict[str, float]
    test: dict[str, float]
    graphs: dict[str, float]


def metric_table(scores: Mapping[str, Mapping[str, float]]) -> Table:
    """Arrange metrics as a table: a row per metric, a column per split."""
    names = list(next(iter(scores.values())))
    rows = [[name, *(f"{values[name]:.4f}" for values in scores.values())] for name in names]
    return ["metric", *scores], rows


def evaluation_tables(evaluation: "Evaluation") -> dict[str, Table]:
    """Arrange an evaluation as tables by heading: metrics, groups of users, groups of items."""
    by_name: dict[str, dict[str, float]] = {}
    for metric, value in evaluation.metrics.items():
        name, _, cutoff = metric.partition("@")
        by_name.setdefault(name, {})[f"@{cutoff}"] = value
    cutoffs = list(next(iter(by_name.values())))
    rows = [[name, *(f"{values[k]:.4f}" for k in cutoffs)] for name, values in by_name.items()]
    tables = {f"{evaluation.split}, all items ranked": (["metric", *cutoffs], rows)}
    kinds = {"Users by activity": evaluation.users, "Items by popularity": evaluation.items}
    for heading, groups in kinds.items():
        columns = list(next(iter(groups.values())))
        cells = [[name, *(_number(values[c]) for c in columns)] for name, values in groups.items()]
        tables[heading] = (["group", *columns], cells)
    return tables


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"


def graph_table(purities: Mapping[str, float]) -> Table | None:
    """Arrange the share of each item graph's edges within a known group; None if no groups are known."""
    rows = [[label, f"{purities[name]:.1%}"] for name, label in GRAPHS.items() if name in purities]
    return (["item graph", "edges within a known group"], rows) if rows else None


def write_run_report(run: RunDirectory, data: RecommendData, result: TrainResult) -> None:
    """Draw plots/*.png from metrics.jsonl and write report.html."""
    records = run.read_metrics()
    facts = {
        "data": f"{data.name}: {data.users:,} users, {data.items:,} items, "
        f"{data.train.nnz:,} / {data.validation.nnz:,} / {data.test.nnz:,} interactions",
        "epochs": f"{records[-1]['epoch']}, best {result.best_epoch}",
        "seconds an epoch": f"{sum(r['seconds'] for r in records) / len(records):.1f}",
        "peak memory": f"{max(r['peak_memory'] for r in records) / 2**30:.2f} GiB",
    }
    tables = {"Ranking over all items": metric_table({"validation": result.validation, "test": result.test})}
    if graphs := graph_table(result.graphs):
        tables["Item graphs and the known groups"] = graphs
    plots = draw_curves(run, CURVES, x="epoch", mark=result.best_epoch)
    core.write_run_report(run, "recommend", facts, tables, plots)
