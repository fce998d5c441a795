"""`mmtk distill eval | compare`: measure students against their teacher and side by side."""

from typing import Annotated

import typer

from ..command import Answer, command
from ..options import Config, Device, Output, Resume, Seed, Set
from ..output import Table
from .options import Base, Data, Rules, Run, Take, default_preset, flags_of, make_plan

app = typer.Typer()


@command(app, "distill eval", example="mmtk distill eval --checkpoint runs/mine -s evaluate.samples=5000")
def evaluate(checkpoint: Run, assignments: Set = None, device: Device = None) -> Answer:
    """Measure FID, KID, precision, recall, trajectory error and CLIP score by steps, eta and guidance."""
    from mmtoolkit.core.config import set_layers
    from mmtoolkit.distill.evaluate import evaluate
    from mmtoolkit.distill.report import cell_table, flat_metrics, teacher_table

    found = evaluate(checkpoint, set_layers(assignments or []), device.value if device else None)
    tables = [
        Table("Against the teacher's 50 steps and the data", *cell_table(found.cells)),
        Table("The teacher itself", *teacher_table(found.teacher)),
    ]
    return Answer({"run": str(checkpoint), "metrics": flat_metrics(found)}, tables)


@command(app, "distill compare", example="mmtk distill compare -c shapes --seeds 3 -o runs/compare")
def compare(
    config: Config = None,
    assignments: Set = None,
    rules: Rules = None,
    take: Take = None,
    seeds: Annotated[int, typer.Option(min=1, help="Students of each rule.")] = 1,
    data: Data = None,
    base: Base = None,
    seed: Seed = None,
    device: Device = None,
    resume: Resume = None,
    output: Output = None,
) -> Answer:
    """Train LCM, PCM, TCD and TDD at an equal budget from one teacher, and put them side by side."""
    from mmtoolkit.distill.compare import ALL, compare, comparison_table, flat_comparison, metrics_of

    flags = flags_of(data, base, seed, device)
    plan = make_plan("compare", config or default_preset(resume), assignments, flags, resume, output)
    found = compare(plan.resolved, plan.run, rules or ALL, seeds, take or [])
    path = plan.run.path
    files = [str(path / name) for name in ("report.html", "results.json", "tables.md")]
    tables = [Table(f"{name} (* best)", *comparison_table(found, name)) for name in metrics_of(found)]
    content = {"run": str(path), "metrics": flat_comparison(found), "files": files}
    return Answer(content, [*tables, f"report  {path / 'report.html'}"])
