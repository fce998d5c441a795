"""`mmtk distill sample`: draw pictures with a student."""

from pathlib import Path
from typing import Annotated

import typer

from mmtoolkit.distill.sampling.grids import ScheduleKind

from .. import options
from ..command import Answer, command
from ..options import Device, Output
from .options import Base, Family, Layout, LoraScale

app = typer.Typer()


@command(app, "distill sample", example="mmtk distill sample --prompt 'two small red stars on black'")
def sample(
    checkpoint: Annotated[
        str,
        typer.Option(
            metavar="RUN|LORA|HUB-ID", help="The student; `shapes` ships.", rich_help_panel=options.RUN
        ),
    ] = "shapes",
    base: Base = None,
    family: Family = None,
    layout: Layout = None,
    prompt: Annotated[list[str] | None, typer.Option(help="What to draw; may be repeated.")] = None,
    prompts: Annotated[Path | None, typer.Option(metavar="FILE", help="Prompts, one per line.")] = None,
    label: Annotated[list[str] | None, typer.Option(help="Class to draw; may be repeated.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Network calls.")] = 4,
    guidance: Annotated[
        float | None,
        typer.Option(min=0, help="Guidance scale in the teacher's units (default: the student's own)."),
    ] = None,
    damped: Annotated[
        bool,
        typer.Option(
            "--damped/--undamped",
            help="Weaken guidance above the student's own over long jumps.",
        ),
    ] = True,
    eta: Annotated[float, typer.Option(min=0, max=1, help="Share of each jump that is noised back.")] = 0.0,
    schedule: Annotated[ScheduleKind, typer.Option(help="Placement of the steps.")] = "equidistant",
    clip_steps: Annotated[int, typer.Option(min=0, help="First steps with dynamic thresholding.")] = 0,
    lora_scale: LoraScale = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the noise.")] = 0,
    count: Annotated[
        int | None, typer.Option(min=1, help="Pictures (default: one per prompt, or 16).")
    ] = None,
    grid: Annotated[bool, typer.Option(help="Also write all pictures on one grid.")] = True,
    device: Device = None,
    output: Output = None,
) -> Answer:
    """Draw pictures in a few steps; each PNG carries its settings."""
    from mmtoolkit.core.fields import DeviceName
    from mmtoolkit.core.run import check_new, default_run_path
    from mmtoolkit.distill import sample as draw_samples
    from mmtoolkit.distill.sample import SampleSettings, read_prompts, write_samples

    texts = [*read_prompts(prompt or [], prompts), *(label or [])]
    settings = SampleSettings(
        steps, guidance, eta, schedule, seed, count or len(texts) or 16, clip_steps, lora_scale, damped
    )
    path = output or default_run_path("distill", "sample", seed)
    check_new(path)  # before anything is drawn
    where: DeviceName = device.value if device else "auto"
    drawn = draw_samples(checkpoint, texts, settings, base=base, family=family, layout=layout, device=where)
    files = [str(file) for file in write_samples(drawn, path, grid=grid)]
    content = {"metrics": {"seconds": drawn.seconds}, "settings": drawn.settings, "files": files}
    return Answer(
        content, [f"{files[0]}  {len(drawn.images)} pictures, {steps} steps, {drawn.seconds:.2f} s"]
    )
