"""Open a trained student for use: weights only, no optimizer and no state of a training."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mmtoolkit import __version__
from mmtoolkit.core.checkpoint import load_checkpoint, matching_weights
from mmtoolkit.core.config import config_layer, resolve
from mmtoolkit.core.device import resolve_device
from mmtoolkit.core.errors import CheckpointError, UsageError
from mmtoolkit.core.fields import DeviceName
from mmtoolkit.core.files import read_json, read_json_file, read_metadata, read_tensors
from mmtoolkit.core.run import MODEL_FILE, RunDirectory
from mmtoolkit.distill.config import SHAPES, DistillSettings, TargetSettings
from mmtoolkit.distill.data.cached import is_cache, open_cache
from mmtoolkit.distill.data.examples import PixelExamples, load_images
from mmtoolkit.distill.data.read import open_pictures
from mmtoolkit.distill.models.denoiser import Denoiser, Examples, move
from mmtoolkit.distill.models.pixel import PixelDenoiser, load_pixel, load_pixel_student

if TYPE_CHECKING:
    from mmtoolkit.distill.models.families import Source
    from mmtoolkit.distill.models.lora import Lora, LoraLayer

FACTS = "mmtoolkit.distill"
"""Key of the facts, as JSON, in the metadata of a LoRA file."""


@dataclass(frozen=True)
class PixelStudent:
    """A pixel student on its teacher.

    Attributes:
        name: what the user named.
        denoiser: student and teacher in one.
        targets: what it was trained for.
    """

    name: str
    denoiser: PixelDenoiser
    targets: TargetSettings


@dataclass(frozen=True)
class LatentStudent:
    """The weights of a student of a latent family and its base; both are read when they are needed.

    Attributes:
        name: what the user named.
        source: its base.
        weights: file of the LoRA, or of all weights.
        scale: alpha / rank if the file does not state alpha.
        full: whether `weights` are all weights and not a LoRA.
        factor: on the whole LoRA.
        facts: what a user of the file should know, see :func:`training_facts`.
    """

    name: str
    source: "Source"
    weights: Path
    scale: float | None
    full: bool
    facts: dict[str, Any]
    factor: float = 1.0

    def lora(self, network: nn.Module) -> "Lora":
        """Read its LoRA for the base's network, times its factor."""
        from mmtoolkit.distill.models.lora import read_lora

        read = read_lora(self.weights, network, scale=self.scale)
        layers = {name: replace(one, alpha=one.alpha * self.factor) for name, one in read.layers.items()}
        return replace(read, layers=layers)


@dataclass(frozen=True)
class TrainedRun:
    """A student of a run with its teacher and its examples, ready to be evaluated.

    Attributes:
        path: folder of the run.
        settings: of the run, with changed `evaluate` settings.
        examples: the data.
        denoiser: student and teacher in one.
        device: where it computes.
    """

    path: Path
    settings: DistillSettings
    examples: Examples
    denoiser: Denoiser
    device: torch.device


def load(
    checkpoint: str | Path = SHAPES,
    *,
    base: str | None = None,
    family: str | None = None,
    layout: str | None = None,
    lora_scale: float | None = None,
    device: DeviceName = "auto",
) -> PixelStudent | LatentStudent:
    """Open a student to sample from.

    Args:
        checkpoint: `shapes`, a run of `distill train`, one of its checkpoints (pixel students), or a LoRA
            file or folder.
        base: the base model, if it is not the run's.
        family: of the base; needed for a LoRA file.
        layout: for a base in a single file, see :class:`~mmtoolkit.distill.config.ModelSettings`.
        lora_scale: factor on the LoRA; not for pixel students.
        device: where a pixel student computes.

    Raises:
        CheckpointError: if the student or its base cannot be loaded.
        UsageError: if an argument does not fit the kind of student.
    """
    name = str(checkpoint)
    if family not in (None, "pixel") or not is_pixel(name):
        return open_student(Path(name), base, family, layout, lora_scale)
    if lora_scale is not None:
        raise UsageError(f"`lora_scale`: {name} is a pixel student, which states its own; leave it out")
    return PixelStudent(name, *load_pixel_student(name, base, resolve_device(device)))


def is_pixel(checkpoint: str) -> bool:
    """Return whether a checkpoint is a pixel student, and not a run or LoRA of a latent family."""
    path = Path(checkpoint)
    if checkpoint == SHAPES:
        return True
    if (path / "config.yaml").is_file():
        return run_settings(RunDirectory(path)).model.family == "pixel"
    if (path / "meta.json").is_file():
        return "spec" in read_json_file(path / "meta.json")
    return path.is_file() and "spec" in read_metadata(path)


def run_settings(run: RunDirectory) -> DistillSettings:
    """Return the settings of a run."""
    return resolve(DistillSettings, [config_layer("distill", str(run.config_path))]).settings


def load_run(run: RunDirectory, settings: DistillSettings) -> TrainedRun:
    """Open the student of a run with its teacher and its data.

    Args:
        run: a run of `distill train`.
        settings: its settings, with changed `evaluate` settings, device or data.

    Raises:
        CheckpointError: if the run has no checkpoint, or its base is gone or another one.
        DataError: if the data cannot be used.
    """
    path = run.checkpoint()
    device = resolve_device(settings.device)
    denoiser, examples = load_base(settings, run, device)
    parameters = denoiser.trainable()
    stored = load_checkpoint(path, state=False).model
    weights = matching_weights(stored, dict(parameters), path)
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])
    denoiser.network.requires_grad_(False)
    return TrainedRun(run.path, settings, examples, denoiser, device)


def load_base(
    settings: DistillSettings, run: RunDirectory, device: torch.device
) -> tuple[Denoiser, Examples]:
    """Load the adapted base of a run and its examples; of a latent family from its cache.

    Raises:
        CheckpointError: if the base cannot be loaded.
        DataError: if the data cannot be used, or the cache is not finished.
        UsageError: if the run's cache is of other data than the settings name.
    """
    if settings.model.family == "pixel":
        pixel, pictures = load_pixel_base(settings, device)
        pixel.adapt(settings.model)
        return pixel, pictures
    from mmtoolkit.distill.models.families import load_latent

    path = settings.data.path
    cache = path if path is not None and is_cache(path) else run.path / "cache"
    if cache != path and settings.data != run_settings(run).data:
        raise UsageError(f"{run.path}: its cache is of other data; name a cache with `data`")
    examples = open_cache(cache, settings)
    no_prompt = move(examples.no_prompt, device)
    latent = load_latent(settings, examples.facts["size"], no_prompt, device)
    latent.adapt(settings.model)
    return latent, examples


def load_pixel_base(settings: DistillSettings, device: torch.device) -> tuple[PixelDenoiser, PixelExamples]:
    """Load a pixel teacher and the pictures in its size, with the tokens of its vocabulary."""
    denoiser = load_pixel(settings.model.base, device)
    pictures = open_pictures(settings.data)
    tokens = denoiser.spec.tokens(pictures.texts)
    images = load_images(pictures, denoiser.spec.size)
    return denoiser, PixelExamples(images, tokens, settings.data.flip, pictures.texts)


def training_facts(settings: DistillSettings) -> dict[str, Any]:
    """Collect what a user of the student must know to sample from it."""
    targets, model = settings.targets, settings.model
    return {
        "method": targets.rule,
        "family": model.family,
        "base": model.base,
        "rank": model.rank,
        "alpha": model.alpha or float(model.rank),
        "guidance": targets.guidance,
        "drop": targets.drop,
        "steps_min": targets.steps_min,
        "steps_max": targets.steps_max,
        "training_steps": targets.training_steps,
        "eta": targets.eta,
        "window": targets.window,
        "mmtoolkit": __version__,
    }


def open_student(
    checkpoint: Path,
    base: str | None,
    family: str | None,
    layout: str | None = None,
    lora_scale: float | None = None,
) -> LatentStudent:
    """Find the base and the weights behind a run or a LoRA file of a latent family.

    Args:
        checkpoint: folder of a run of `distill train`, or a LoRA of any layout.
        base: its base, if that is not the run's.
        family: of the base; needed for a LoRA file.
        layout: see :class:`~mmtoolkit.distill.models.families.Source`.
        lora_scale: factor on the LoRA; if it is given, a missing alpha is not reported.

    Raises:
        CheckpointError: if there is no such checkpoint.
        UsageError: if the base or family of a LoRA file is not named, it is a pixel student, or `lora_scale`
            is given for all weights.
    """
    from mmtoolkit.distill.models.families import FAMILIES, Source
    from mmtoolkit.distill.models.lora import find_lora_file

    factor = 1.0 if lora_scale is None else lora_scale
    name = str(checkpoint)
    if not (checkpoint / "config.yaml").is_file():
        if not checkpoint.exists():
            raise CheckpointError(f"{checkpoint}: no such run or file")
        if base is None or family is None:
            raise UsageError(f"{checkpoint}: a LoRA file does not state its base; name `base` and `family`")
        scale = None if lora_scale is None else 1.0
        source = Source.open(base, family, layout)
        file = find_lora_file(checkpoint)
        facts = read_json(read_metadata(file).get(FACTS, "{}"), file)
        return LatentStudent(name, source, file, scale, False, facts, factor)
    run = RunDirectory.open(checkpoint)
    settings = run_settings(run)
    model = settings.model
    if model.family not in FAMILIES:
        raise UsageError(f"{checkpoint}: a {model.family} student is no pipeline; mmtk samples it directly")
    full = model.adapter == "full"
    if full and lora_scale is not None:
        raise UsageError(f"`lora_scale`: {checkpoint} trained all weights and has no LoRA; leave it out")
    source = Source.open(base or model.base, model.family, layout or model.layout)
    weights = run.checkpoint() / MODEL_FILE
    scale = 1.0 if model.alpha is None else model.alpha / model.rank
    return LatentStudent(name, source, weights, scale, full, training_facts(settings), factor)


@torch.no_grad()
def student_network(student: LatentStudent, dtype: torch.dtype) -> nn.Module:
    """Load the base's network with the student's weights in it."""
    network = student.source.network(dtype)
    changes = weight_changes(student, network)
    for name, value in network.state_dict().items():
        if name in changes:
            value.copy_(changes[name](value))
    return network


def weight_changes(student: LatentStudent, network: nn.Module) -> dict[str, Callable[[Tensor], Tensor]]:
    """Return for each weight that the student changes how it follows from the base's, in float32."""
    if student.full:
        weights, _ = read_tensors(student.weights)
        part = f"{student.source.family.part}."
        return {name.removeprefix(part): partial(_replaced, value) for name, value in weights.items()}
    lora = student.lora(network)
    return {f"{name}.weight": partial(_added, layer) for name, layer in lora.layers.items()}


def _replaced(weight: Tensor, base: Tensor) -> Tensor:
    return weight.to(base.device, torch.float32)


def _added(layer: "LoraLayer", base: Tensor) -> Tensor:
    return base.float() + layer.delta()
