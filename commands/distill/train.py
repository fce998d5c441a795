"""`mmtk distill teach | cache | train`: make teachers, caches and students."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ..command import Answer, command, planned
from ..options import Config, Device, DryRun, Output, Resume, Seed, Set
from .options import Base, CacheOutput, Data, default_preset, flags_of, make_plan, resolve_settings

if TYPE_CHECKING:
    from mmtoolkit.distill.config import DistillSettings

    from ..plan import Plan

app = typer.Typer()


@command(app, "distill teach", example="mmtk distill teach --data my-pictures -o runs/teacher")
def teach(
    config: Config = None,
    assignments: Set = None,
    data: Data = None,
    seed: Seed = None,
    device: Device = None,
    resume: Resume = None,
    dry_run: DryRun = False,
    output: Output = None,
) -> Answer:
    """Train a small pixel-space diffusion model from scratch."""
    from mmtoolkit.distill.teach import describe_work, teach

    plan = make_plan("teach", config, assignments, flags_of(data, None, seed, device), resume, output)
    if dry_run:
        return planned(plan.run.path, describe_work(plan.resolved.settings))
    result = teach(plan.resolved.settings, plan.run, resume=plan.resume)
    names = ("teacher.safetensors", "results.json", "samples")
    return _answer(plan, result.steps, {"loss": result.loss}, names)


@command(
    app,
    "distill cache",
    example="mmtk distill cache -c sdxl --base my-model --data pictures -o pictures-sdxl",
)
def cache(
    output: CacheOutput,
    config: Config = None,
    assignments: Set = None,
    data: Data = None,
    base: Base = None,
    seed: Seed = None,
    device: Device = None,
    dry_run: DryRun = False,
) -> Answer:
    """Encode pictures and prompts once, so that training holds neither autoencoder nor text encoders."""
    from mmtoolkit.distill.cache import describe_work, write_cache

    flags = flags_of(data, base, seed, device)
    settings = resolve_settings("cache", config, assignments, flags).settings
    if dry_run:
        return planned(output, describe_work(settings), folder="folder")
    examples = write_cache(settings, output)
    content = {"pictures": len(examples), "prompts": len(examples.prompts), "files": [str(output)]}
    return Answer(content, [f"{output}: {len(examples):,} pictures, {len(examples.prompts):,} prompts"])


@command(
    app, "distill train", example="mmtk distill train -c sdxl --data pictures --base my-model -o runs/mine"
)
def train(
    config: Config = None,
    assignments: Set = None,
    data: Data = None,
    base: Base = None,
    seed: Seed = None,
    device: Device = None,
    resume: Resume = None,
    dry_run: DryRun = False,
    output: Output = None,
) -> Answer:
    """Distil a few-step student (default: of the embedded teacher)."""
    from mmtoolkit.distill.train import train
    from mmtoolkit.distill.training.describe import describe_work

    flags = flags_of(data, base, seed, device)
    plan = make_plan("train", config or default_preset(resume), assignments, flags, resume, output)
    if dry_run:
        return planned(plan.run.path, describe_work(plan.resolved.settings))
    result = train(plan.resolved.settings, plan.run, resume=plan.resume)
    names = ("report.html", "results.json", "samples", "checkpoints/last")
    return _answer(plan, result.steps, {"loss": result.loss, **result.gaps}, names)


def _answer(
    plan: "Plan[DistillSettings]", steps: int, metrics: Mapping[str, float], names: tuple[str, ...]
) -> Answer:
    files = [str(plan.run.path / name) for name in names]
    shown = {name: f"{value:.4f}" for name, value in metrics.items()} | {Path(f).name: f for f in files}
    content = {"run": str(plan.run.path), "steps": steps, "metrics": metrics, "files": files}
    return Answer(content, [shown])
