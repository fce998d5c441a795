"""`mmtk distill sample`."""

from pathlib import Path
from typing import Annotated

import typer

from mmtoolkit.distill.sampling.grids import ScheduleKind

from .. import options
from ..command import Answer, command
from ..options import Device, Output
from .options import Base, Family, Layout, LoraScale

app = typer.Typer()

Prompts = Annotated[list[str] | None, typer.Option(help="What to draw; may be repeated.")]
PromptFile = Annotated[Path | None, typer.Option(metavar="FILE", help="Prompts, one per line.")]
Labels = Annotated[list[str] | None, typer.Option(help="Class to draw; may be repeated.")]
Steps = Annotated[int, typer.Option(min=1, help="Network calls.")]
Guidance = Annotated[
    float | None,
    typer.Option(min=0, help="Guidance scale in the teacher's units (default: the student's own)."),
]
Damped = Annotated[
    bool,
    typer.Option("--damped/--undamped", help="Weaken guidance above the student's own over long jumps."),
]
Eta = Annotated[float, typer.Option(min=0, max=1, help="Share of each jump that is noised back.")]
Schedule = Annotated[ScheduleKind, typer.Option(help="Placement of the steps.")]
ClipSteps = Annotated[int, typer.Option(min=0, help="First steps with dynamic thresholding.")]
NoiseSeed = Annotated[int, typer.Option(min=0, help="Seed of the noise.")]
Count = Annotated[int | None, typer.Option(min=1, help="Pictures (default: one per prompt, or 16).")]
Grid = Annotated[bool, typer.Option(help="Also write all pictures on one grid.")]
Student = Annotated[
    str,
    typer.Option(metavar="RUN|LORA|HUB-ID", help="The student; `shapes` ships.", rich_help_panel=options.RUN),
]


@command(app, "distill sample", example="mmtk distill sample --prompt 'two small red stars on black'")
def sample(
    checkpoint: Student = "shapes",
    base: Base = None,
    family: Family = None,
    layout: Layout = None,
    prompt: Prompts = None,
    prompts: PromptFile = None,
    label: Labels = None,
    steps: Steps = 4,
    guidance: Guidance = None,
    damped: Damped = True,
    eta: Eta = 0.0,
    schedule: Schedule = "equidistant",
    clip_steps: ClipSteps = 0,
    lora_scale: LoraScale = None,
    seed: NoiseSeed = 0,
    count: Count = None,
    grid: Grid = True,
    device: Device = None,
    output: Output = None,
) -> Answer:
    """Draw pictures in a few steps; each PNG carries its settings."""
    from mmtoolkit.core.run import check_new, default_run_path
    from mmtoolkit.distill.sample import SampleSettings, read_prompts, write_samples
    from mmtoolkit.distill.sample import sample as draw

    texts = [*read_prompts(prompt or [], prompts), *(label or [])]
    count = count or len(texts) or 16
    settings = SampleSettings(steps, guidance, eta, schedule, seed, count, clip_steps, lora_scale, damped)
    path, where = output or default_run_path("distill", "sample", seed), device.value if device else "auto"
    check_new(path)  # before anything is drawn
    drawn = draw(checkpoint, texts, settings, base=base, family=family, layout=layout, device=where)
    files = [str(file) for file in write_samples(drawn, path, grid=grid)]
    content = {"metrics": {"seconds": drawn.seconds}, "settings": drawn.settings, "files": files}
    return Answer(
        content, [f"{files[0]}  {len(drawn.images)} pictures, {steps} steps, {drawn.seconds:.2f} s"]
    )
