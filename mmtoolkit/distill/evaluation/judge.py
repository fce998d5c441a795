"""Measure a student at every setting of the sampler, against its teacher and the data."""

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mmtoolkit.core.errors import ConfigError
from mmtoolkit.core.logging import logger
from mmtoolkit.core.progress import progress_bar
from mmtoolkit.distill.config import EvaluateSettings
from mmtoolkit.distill.evaluation.clip import Clip, clip_score
from mmtoolkit.distill.evaluation.features import Extractor, extract_all, load_features
from mmtoolkit.distill.evaluation.metrics import (
    frechet_distance,
    kernel_distance,
    precision_recall,
    trajectory_error,
)
from mmtoolkit.distill.load import TrainedRun
from mmtoolkit.distill.models.denoiser import Condition, autocast, move
from mmtoolkit.distill.report import Cell, Evaluation
from mmtoolkit.distill.sampling.generate import in_parts, student_samples, teacher_samples
from mmtoolkit.distill.training.steps import step_generator

FEATURES_FILE = "features.safetensors"
SHOWN = 16
"""Samples of each setting that are kept to look at."""


@dataclass(frozen=True)
class Bench:
    """What all students are measured with: the same noise, conditions, teacher's samples and features.

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


def make_bench(student: TrainedRun, features: Path) -> Bench:
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


def _pictures(student: TrainedRun, samples: Tensor) -> Iterator[Tensor]:
    with torch.no_grad():
        for part in samples.split(student.settings.evaluate.batch_size):
            yield student.denoiser.decode(part)


def _features(student: TrainedRun, extractor: Extractor, samples: Tensor) -> Tensor:
    return torch.cat([extract_all(extractor, part) for part in _pictures(student, samples)])


def _clip_score(student: TrainedRun, bench: Bench, samples: Tensor) -> dict[str, float]:
    if bench.clip is None or bench.texts is None:
        return {}
    pictures = torch.cat([bench.clip.pictures(part) for part in _pictures(student, samples)])
    return {"clip_score": clip_score(pictures, bench.texts)}


def judge(student: TrainedRun, bench: Bench) -> Evaluation:
    """Measure a student at every setting of the bench."""
    settings, strength = bench.settings, 1 + student.settings.targets.guidance
    pictures = {f"teacher, guidance {g:g}": samples[:SHOWN] for g, samples in bench.teacher.items()}
    choices = list(itertools.product(settings.guidance, settings.eta, settings.steps))
    cells = []
    with (
        autocast(student.device, student.settings.precision),
        progress_bar("judging", len(choices)) as advance,
    ):
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


def _draw(student: TrainedRun, bench: Bench, steps: int, eta: float, guidance: float) -> tuple[Tensor, float]:
    """Draw with the student; returns the samples and the seconds per picture."""
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


def _measure(student: TrainedRun, bench: Bench, samples: Tensor, guidance: float) -> dict[str, float]:
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
