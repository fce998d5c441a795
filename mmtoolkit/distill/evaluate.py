"""Judge a student by steps, eta and guidance, against its teacher and the data."""

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mmtoolkit.core.config import Layer, flatten
from mmtoolkit.core.errors import ConfigError, UsageError
from mmtoolkit.core.fields import DeviceName
from mmtoolkit.core.logging import logger
from mmtoolkit.core.progress import progress_bar
from mmtoolkit.core.run import RunDirectory
from mmtoolkit.distill.config import EvaluateSettings
from mmtoolkit.distill.evaluation.clip import Clip, clip_score
from mmtoolkit.distill.evaluation.features import Extractor, extract_all, load_features
from mmtoolkit.distill.evaluation.metrics import (
    frechet_distance,
    kernel_distance,
    precision_recall,
    trajectory_error,
)
from mmtoolkit.distill.load import Student, load
from mmtoolkit.distill.models.denoiser import Condition, autocast, move
from mmtoolkit.distill.sampling.generate import in_parts, student_samples, teacher_samples
from mmtoolkit.distill.training.steps import step_generator

FEATURES_FILE = "features.safetensors"


@dataclass(frozen=True)
class Cell:
    """One setting of the sampler and what was measured there.

    Attributes:
        steps: network calls of the student.
        eta: stochastic offset.
        guidance: in teacher units.
        metrics: `fid` and `kid` to the teacher's samples, `fid_data` to the data, `precision` and `recall`
            against the data, `trajectory_error`, `seconds_picture`; `clip_score` where a CLIP is named.
    """

    steps: int
    eta: float
    guidance: float
    metrics: dict[str, float]


@dataclass(frozen=True)
class Evaluation:
    """What was measured of a student.

    Attributes:
        cells: one for each steps, eta and guidance.
        teacher: `fid_data`, `precision`, `recall` (and `clip_score`) of the teacher itself, by guidance in
            teacher units.
        pictures: some pictures of the teacher and of each cell with eta 0, for looking at, by title.
    """

    cells: list[Cell]
    teacher: dict[float, dict[str, float]]
    pictures: dict[str, Tensor]


@dataclass(frozen=True)
class Bench:
    """What all students are judged with: the same noise, conditions, teacher's samples and features.

    Attributes:
        settings: of the evaluation.
        condition: `samples` rows.
        noise: `(samples, *shape)`.
        extractor: of features.
        real: features of the data `(samples, width)`.
        teacher: samples `(samples, *shape)`, by guidance in teacher units.
        features: of the teacher's samples, by guidance.
        clip: scores pictures against the texts, if one was named.
        texts: embeddings of the texts by that CLIP.
    """

    settings: EvaluateSettings
    condition: Condition
    noise: Tensor
    extractor: Extractor
    real: Tensor
    teacher: dict[float, Tensor]
    features: dict[float, Tensor]
    clip: Clip | None = None
    texts: Tensor | None = None


SHOWN = 16


def evaluate(checkpoint: Path, changes: Sequence[Layer] = (), device: DeviceName | None = None) -> Evaluation:
    """Judge the student of a run.

    Args:
        checkpoint: folder of a run of `distill train`, or of one of its checkpoints.
        changes: changes of the run's `evaluate` settings.
        device: where to compute; None: as the run did.

    Raises:
        CheckpointError: if there is no such run, or its base is missing.
        UsageError: if another setting is to change.
    """
    if others := [name for layer in changes for name, _ in flatten(layer.values) if not _judges(name)]:
        raise UsageError(f"{others[0]}: only evaluate.* can change after training")
    student = load(checkpoint, device, changes=changes)
    run, _ = RunDirectory.locate(checkpoint)
    return judge(student, make_bench(student, run.path / FEATURES_FILE))


def _judges(name: str) -> bool:
    return name.startswith("evaluate.")


def make_bench(student: Student, features: Path) -> Bench:
    """Draw the teacher's samples that students of one base, data set and w are judged by.

    Args:
        student: any student of that teacher.
        features: file in which learned features are kept.
    """
    settings = student.settings.evaluate
    examples, denoiser, device = student.examples, student.denoiser, student.device
    rows = torch.linspace(0, len(examples) - 1, settings.samples).long()
    clean, condition = examples.batch(rows)
    extractor = load_features(settings.features, examples, features, device)
    clip, texts = _clip_of(settings, examples.texts(rows), device)
    generator = step_generator(settings.seed, 0, torch.device("cpu"))
    noise = torch.randn((settings.samples, *denoiser.shape), generator=generator).to(device)
    condition = move(condition, device)
    strength = 1 + student.settings.targets.guidance
    teacher = {}
    with denoiser.teacher(), autocast(device, student.settings.precision):
        for multiple in settings.guidance:
            guidance = multiple * strength
            logger.info("drawing %d pictures with the teacher, guidance %g", settings.samples, guidance)
            parts = in_parts(condition, noise, settings.batch_size)
            drawn = [teacher_samples(denoiser, *part, guidance=guidance) for part in parts]
            teacher[guidance] = torch.cat(drawn)
    found = {guidance: _features(student, extractor, samples) for guidance, samples in teacher.items()}
    real = _features(student, extractor, clean.to(device))
    return Bench(settings, condition, noise, extractor, real, teacher, found, clip, texts)


def _clip_of(
    settings: EvaluateSettings, texts: list[str], device: torch.device
) -> tuple[Clip | None, Tensor | None]:
    """Load the CLIP that was named and embed the texts.

    Raises:
        ConfigError: if there is no such CLIP, or the data have no texts.
    """
    if settings.clip is None:
        return None, None
    if not any(texts):
        raise ConfigError(
            "evaluate.clip: the data have no captions or classes to score against; leave it out"
        )
    clip = Clip(settings.clip, device)
    return clip, clip.texts(texts)


def _pictures(student: Student, samples: Tensor) -> Iterator[Tensor]:
    with torch.no_grad():
        for part in samples.split(student.settings.evaluate.batch_size):
            yield student.denoiser.decode(part)


def _features(student: Student, extractor: Extractor, samples: Tensor) -> Tensor:
    return torch.cat([extract_all(extractor, part) for part in _pictures(student, samples)])


def _clip_score(student: Student, bench: Bench, samples: Tensor) -> dict[str, float]:
    if bench.clip is None or bench.texts is None:
        return {}
    pictures = torch.cat([bench.clip.pictures(part) for part in _pictures(student, samples)])
    return {"clip_score": clip_score(pictures, bench.texts)}


def judge(student: Student, bench: Bench) -> Evaluation:
    """Measure a student at every setting of the bench."""
    settings, strength = bench.settings, 1 + student.settings.targets.guidance
    pictures = {f"teacher, guidance {g:g}": samples[:SHOWN] for g, samples in bench.teacher.items()}
    choices = list(itertools.product(settings.guidance, settings.eta, settings.steps))
    cells = []
    precision = autocast(student.device, student.settings.precision)
    with precision, progress_bar("judging", len(choices)) as advance:
        for multiple, eta, steps in choices:
            samples, seconds = _draw(student, bench, steps, eta, multiple)
            guidance = multiple * strength
            metrics = _measure(student, bench, samples, guidance) | {"seconds_picture": seconds}
            cells.append(Cell(steps, eta, guidance, metrics))
            if eta == 0:
                pictures[f"{steps} steps, guidance {guidance:g}"] = samples[:SHOWN]
            advance(f"{steps} steps, fid {metrics['fid']:.3f}")
    teacher = {
        g: _against_data(bench, bench.features[g]) | _clip_score(student, bench, samples)
        for g, samples in bench.teacher.items()
    }
    with torch.no_grad():
        decoded = {title: student.denoiser.decode(samples) for title, samples in pictures.items()}
    return Evaluation(cells, teacher, decoded)


def _draw(student: Student, bench: Bench, steps: int, eta: float, guidance: float) -> tuple[Tensor, float]:
    """Draw with the student; returns the samples and the seconds a picture."""
    generator = step_generator(bench.settings.seed, 1, torch.device("cpu"))
    start = time.perf_counter()
    drawn = [
        student_samples(
            student.denoiser,
            condition,
            noise,
            steps=steps,
            training_steps=student.settings.targets.training_steps,
            guidance=guidance,
            eta=eta,
            damped=bench.settings.damped,
            generator=generator,
        )
        for condition, noise in in_parts(bench.condition, bench.noise, bench.settings.batch_size)
    ]
    samples = torch.cat(drawn)
    if samples.device.type == "cuda":
        torch.cuda.synchronize(samples.device)
    return samples, (time.perf_counter() - start) / len(samples)


def _measure(student: Student, bench: Bench, samples: Tensor, guidance: float) -> dict[str, float]:
    features = _features(student, bench.extractor, samples)
    return {
        "fid": frechet_distance(features, bench.features[guidance]),
        "kid": kernel_distance(features, bench.features[guidance]),
        "trajectory_error": trajectory_error(samples, bench.teacher[guidance]),
        **_against_data(bench, features),
        **_clip_score(student, bench, samples),
    }


def _against_data(bench: Bench, features: Tensor) -> dict[str, float]:
    precision, recall = precision_recall(features, bench.real)
    fid = frechet_distance(features, bench.real)
    return {"fid_data": fid, "precision": precision, "recall": recall}


def cell_table(cells: list[Cell]) -> tuple[list[str], list[list[str]]]:
    """Arrange cells as rows of a table."""
    names = list(cells[0].metrics)
    rows = [
        [str(cell.steps), f"{cell.eta:g}", f"{cell.guidance:g}", *(_number(cell.metrics[n]) for n in names)]
        for cell in cells
    ]
    return ["steps", "eta", "guidance", *names], rows


def teacher_table(teacher: Mapping[float, Mapping[str, float]]) -> tuple[list[str], list[list[str]]]:
    """Arrange what was measured of the teacher, a row for each guidance."""
    names = list(next(iter(teacher.values())))
    rows = [[f"{g:g}", *(_number(found[name]) for name in names)] for g, found in teacher.items()]
    return ["guidance", *names], rows


def _number(value: float) -> str:
    return f"{value:.4f}" if abs(value) < 100 else f"{value:.1f}"


def flat_metrics(found: Evaluation) -> dict[str, float]:
    """Name every number for --json, as `fid@4,eta=0,guidance=2` or `teacher,fid_data@guidance=2`."""
    flat = {name: value for cell in found.cells for name, value in flat_cell(cell).items()}
    for guidance, metrics in found.teacher.items():
        flat |= {f"teacher,{name}@guidance={guidance:g}": value for name, value in metrics.items()}
    return flat


def flat_cell(cell: Cell) -> dict[str, float]:
    """Name the numbers of a cell."""
    setting = f"{cell.steps},eta={cell.eta:g},guidance={cell.guidance:g}"
    return {f"{name}@{setting}": value for name, value in cell.metrics.items()}
