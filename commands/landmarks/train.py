"""`mmtk landmarks`: train the landmark network and the face detector."""

from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from ..command import Answer, command, planned
from ..options import Config, Device, DryRun, Output, Resume, Seed, Set
from .options import NewFile, Photographs, Rendered, Scenes, Steps

if TYPE_CHECKING:
    from mmtoolkit.core.fields import DeviceName
    from mmtoolkit.landmarks.config import LandmarkSettings
    from mmtoolkit.landmarks.report import DetectorResult

    from ..plan import Plan

app = typer.Typer()


@command(app, "landmarks train", example="mmtk landmarks train -c compact --data helen -o runs/compact")
def train(
    config: Config = None,
    assignments: Set = None,
    data: Photographs = None,
    seed: Seed = None,
    device: Device = None,
    resume: Resume = None,
    dry_run: DryRun = False,
    output: Output = None,
) -> Answer:
    """Train on photographs and rendered faces; without --data on rendered faces only."""
    from mmtoolkit.core.config import Layer
    from mmtoolkit.landmarks.config import READ_BY, RESUMABLE, LandmarkSettings

    from ..plan import command_layers, plan_training, warn_of_idle_settings

    changes = command_layers(assignments, {"seed": seed, "device": device})
    if data:
        changes.append(Layer("--data", {"data": {"path": [str(path) for path in data]}}))
    plan = plan_training("landmarks", LandmarkSettings, config, changes, resume, output, RESUMABLE)
    warn_of_idle_settings(plan.resolved, READ_BY, "train")
    return _train(plan, dry_run=dry_run)


def _train(plan: "Plan[LandmarkSettings]", *, dry_run: bool) -> Answer:
    from mmtoolkit.landmarks.train import describe_work
    from mmtoolkit.landmarks.train import train as train_engine

    path = plan.run.path
    if dry_run:
        return planned(path, describe_work(plan.resolved.settings))
    result = train_engine(plan.resolved.settings, plan.run, resume=plan.resume)
    files = [str(path / name) for name in ("results.json", "report.html", "checkpoints/best")]
    facts = {"epochs": result.epochs, "best_epoch": result.best_epoch}
    content = {"run": str(path), "metrics": result.metrics, **facts, "files": files}
    shown = {name: f"{value:.4f}" for name, value in result.metrics.items()}
    epochs = f"{result.epochs}, best {result.best_epoch}"
    return Answer(content, [{"epochs": epochs, **shown, "report": str(path / "report.html")}])


@command(
    app,
    "landmarks train-detector",
    example="mmtk landmarks train-detector --data helen --scenes landscapes -o detector.safetensors",
)
def train_detector(
    output: NewFile,
    data: Photographs = None,
    scenes: Scenes = None,
    steps: Steps = 4500,
    rendered: Rendered = 300,
    seed: Seed = 0,
    device: Device = None,
    dry_run: DryRun = False,
) -> Answer:
    """Train the small face detector on photographs and rendered faces."""
    from mmtoolkit.landmarks.train_detector import describe_work
    from mmtoolkit.landmarks.train_detector import train_detector as train_engine

    where: DeviceName = device.value if device else "auto"
    sizes = {"steps": steps, "rendered": rendered}
    if dry_run:
        facts = describe_work(output, data or [], scenes, device=where, **sizes)
        return planned(output, facts, folder="output")
    result = train_engine(output, data or [], scenes, seed=seed or 0, device=where, **sizes)
    return _detector_answer(result)


def _detector_answer(result: "DetectorResult") -> Answer:
    facts = {name: value for name, value in asdict(result).items() if name != "path"}
    line = f"{result.path}: {result.faces:,} faces, {result.scenes:,} scenes, loss {result.loss:.3f}"
    return Answer({**facts, "files": [str(result.path)]}, [line])
