"""The pictures and the page that a training run leaves behind."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

from mmtoolkit.core.plots import plot_curves
from mmtoolkit.core.report import write_report
from mmtoolkit.core.run import RunDirectory
from mmtoolkit.recommend.data.dataset import RecommendData

if TYPE_CHECKING:
    from mmtoolkit.recommend.evaluation.beyond import Judgement
    from mmtoolkit.recommend.train import TrainResult

GRAPHS = {
    "purity_semantic": "semantic (as the features say)",
    "purity_behaviour": "behavioural (as the users say)",
    "purity_denoised": "denoised (what is recommended with)",
}


def metric_table(
    scores: Mapping[str, Mapping[str, float]],
) -> tuple[list[str], list[list[str]]]:
    """Arrange metrics as rows of a table: one for each metric, one column for each split."""
    names = list(next(iter(scores.values())))
    rows = [[name, *(f"{values[name]:.4f}" for values in scores.values())] for name in names]
    return ["metric", *scores], rows


def judgement_tables(judgement: "Judgement", split: str) -> list[tuple[str, list[str], list[list[str]]]]:
    """Arrange a judgement as tables: title, columns and rows of metrics and of the two kinds of groups."""
    by_name: dict[str, dict[str, float]] = {}
    for metric, value in judgement.metrics.items():
        name, _, cutoff = metric.partition("@")
        by_name.setdefault(name, {})[f"@{cutoff}"] = value
    cutoffs = list(next(iter(by_name.values())))
    rows = [[name, *(f"{values[k]:.4f}" for k in cutoffs)] for name, values in by_name.items()]
    tables = [(f"{split}, all items ranked", ["metric", *cutoffs], rows)]
    for title, groups in (("Users by activity", judgement.users), ("Items by popularity", judgement.items)):
        columns = list(next(iter(groups.values())))
        cells = [[name, *(_number(values[c]) for c in columns)] for name, values in groups.items()]
        tables.append((title, ["group", *columns], cells))
    return tables


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"


def graph_table(facts: Mapping[str, float]) -> tuple[list[str], list[list[str]]] | None:
    """Arrange how many edges of each item graph stay within a known group."""
    rows = [[label, f"{facts[name]:.1%}"] for name, label in GRAPHS.items() if name in facts]
    return (["item graph", "edges within a true group"], rows) if rows else None


def write_run_report(run: RunDirectory, data: RecommendData, result: "TrainResult") -> None:
    """Draw plots/*.png from metrics.jsonl and write report.html."""
    records = run.read_metrics()
    pictures = {
        "validation": ["recall@10", "recall@20", "ndcg@10", "ndcg@20"],
        "losses": ["loss_recommender"],
        "diffusion": ["loss_diffusion"],
        "graph": ["kept_semantic_edges", "purity_denoised"],
        "seconds": [
            "seconds_diffusion",
            "seconds_denoising",
            "seconds_recommender",
            "seconds_evaluation",
        ],
    }
    drawn = [
        plot_curves(
            records,
            names,
            run.path / "plots" / f"{title}.png",
            x="epoch",
            title=title,
            mark=result.best_epoch,
        )
        for title, names in pictures.items()
    ]
    environment = json.loads((run.path / "env.json").read_text(encoding="utf-8"))
    about = {
        "data": f"{data.name}: {data.users:,} users, {data.items:,} items, "
        f"{data.train.nnz:,} / {data.validation.nnz:,} / {data.test.nnz:,} interactions",
        "epochs": f"{records[-1]['epoch']}, best {result.best_epoch}",
        "seconds an epoch": f"{sum(r['seconds'] for r in records) / len(records):.1f}",
        "peak memory": f"{max(r['peak_memory'] for r in records) / 2**30:.2f} GiB",
        "machine": f"{environment['cpu']}, {environment['cores']} cores",
    }
    scores = {"validation": result.validation, "test": result.test}
    tables = {"Ranking over all items": metric_table(scores)}
    if graphs := graph_table(result.graphs):
        tables["Item graphs against the true groups"] = graphs
    write_report(
        run.path / "report.html",
        f"recommend: {run.path.name}",
        about,
        tables,
        [picture for picture in drawn if picture],
        run.config_path.read_text(encoding="utf-8"),
    )
