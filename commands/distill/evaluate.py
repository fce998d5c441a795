"""`mmtk distill eval | compare`: measure students against their teacher and side by side."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..command import Answer, command
from ..options import Config, Device, Output, Resume, Seed, Set
from ..output import Table
from .options import Base, Data, Run, default_preset, flags_of, make_plan

if TYPE_CHECKING:
    from mmtoolkit.distill.compare import Comparison

app = typer.Typer()

Rules = Annotated[
    list[str] | None,
    typer.Option(
        "--rule", help="lcm, pcm, tcd, tdd or tdd-coupled; may be repeated (default: the first four)."
    ),
]
Take = Annotated[
    list[str] | None,
    typer.Option(
        metavar="RULE=RUN",
        help="Judge an existing run as that rule instead of training one; may be repeated.",
    ),
]
Seeds = Annotated[int, typer.Option(min=1, help="Students of each rule.")]


@command(app, "distill eval", example="mmtk distill eval --checkpoint runs/mine -s evaluate.samples=5000")
def evaluate(checkpoint: Run, assignments: Set = None, device: Device = None) -> Answer:
    """Measure FID, KID, precision, recall, trajectory error and CLIP score by steps, eta and guidance."""
    from mmtoolkit.core.config import set_layers
    from mmtoolkit.distill.evaluate import cell_table, flat_metrics, teacher_table
    from mmtoolkit.distill.evaluate import evaluate as judge_run

    found = judge_run(checkpoint, set_layers(assignments or []), device.value if device else None)
    shown = [
        Table("Against the teacher's 50 steps and the data", *cell_table(found.cells)),
        Table("The teacher itself", *teacher_table(found.teacher)),
    ]
    return Answer({"run": str(checkpoint), "metrics": flat_metrics(found)}, shown)


@command(app, "distill compare", example="mmtk distill compare -c shapes --seeds 3 -o runs/compare")
def compare(
    config: Config = None,
    assignments: Set = None,
    rules: Rules = None,
    take: Take = None,
    seeds: Seeds = 1,
    data: Data = None,
    base: Base = None,
    seed: Seed = None,
    device: Device = None,
    resume: Resume = None,
    output: Output = None,
) -> Answer:
    """Train LCM, PCM, TCD and TDD at an equal budget from one teacher, and put them side by side."""
    from mmtoolkit.distill.compare import ALL
    from mmtoolkit.distill.compare import compare as compare_rules

    flags = flags_of(data, base, seed, device)
    plan = make_plan("compare", config or default_preset(resume), assignments, flags, resume, output)
    return _side_by_side(
        compare_rules(plan.resolved, plan.run, rules or ALL, seeds, take or []), plan.run.path
    )


def _side_by_side(found: "Comparison", path: Path) -> Answer:
    from mmtoolkit.distill.compare import comparison_table, flat_comparison, metrics_of

    files = [str(path / name) for name in ("report.html", "results.json", "tables.md")]
    tables = [Table(f"{metric} (* best)", *comparison_table(found, metric)) for metric in metrics_of(found)]
    content = {"run": str(path), "metrics": flat_comparison(found), "files": files}
    return Answer(content, [*tables, f"report  {files[0]}"])
