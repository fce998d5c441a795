"""`mmtk distill teach | cache | train`."""

from collections.abc import Mapping
from pathlib import Path

import typer

from ..command import Answer, command, planned
from ..options import Config, Device, DryRun, Output, Resume, Seed, Set
from .options import Base, CacheFolder, Data, default_preset, flags_of, layers_of, make_plan

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
    """Train a small pixel-space diffusion model from nothing."""
    from mmtoolkit.distill.teach import describe_work
    from mmtoolkit.distill.teach import teach as teach_engine

    flags = flags_of(data, None, seed, device)
    plan = make_plan("teach", config, assignments, flags, resume, output)
    if dry_run:
        return planned(plan.run.path, describe_work(plan.resolved.settings))
    result = teach_engine(plan.resolved.settings, plan.run, resume=plan.resume)
    files = ("teacher.safetensors", "results.json", "samples")
    return _finished(plan.run.path, result.steps, {"loss": result.loss}, files)


@command(
    app,
    "distill cache",
    example="mmtk distill cache -c sdxl --base my-model --data pictures -o pictures-sdxl",
)
def cache(
    output: CacheFolder,
    config: Config = None,
    assignments: Set = None,
    data: Data = None,
    base: Base = None,
    seed: Seed = None,
    device: Device = None,
    dry_run: DryRun = False,
) -> Answer:
    """Encode pictures and prompts once, so that training holds neither autoencoder nor text encoders."""
    from mmtoolkit.core.config import resolve
    from mmtoolkit.distill.cache import describe_work, write_cache
    from mmtoolkit.distill.config import DistillSettings

    layers = layers_of(config, assignments, flags_of(data, base, seed, device))
    settings = resolve(DistillSettings, layers).settings
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
    from mmtoolkit.distill.train import describe_work
    from mmtoolkit.distill.train import train as train_engine

    flags = flags_of(data, base, seed, device)
    plan = make_plan("train", config or default_preset(resume), assignments, flags, resume, output)
    if dry_run:
        return planned(plan.run.path, describe_work(plan.resolved.settings))
    result = train_engine(plan.resolved.settings, plan.run, resume=plan.resume)
    files = ("report.html", "results.json", "samples", "checkpoints/last")
    return _finished(plan.run.path, result.steps, {"loss": result.loss, **result.gaps}, files)


def _finished(path: Path, steps: int, metrics: Mapping[str, float], names: tuple[str, ...]) -> Answer:
    files = {name: str(path / name) for name in names}
    content = {"run": str(path), "steps": steps, "metrics": metrics, "files": list(files.values())}
    shown = {name: f"{value:.4f}" for name, value in metrics.items()}
    return Answer(content, [shown | {Path(name).name: file for name, file in files.items()}])
