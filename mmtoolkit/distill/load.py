"""Open a base model with its examples, and a trained student for use: weights only, no optimizer."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mmtoolkit.core.checkpoint import load_checkpoint, matching_weights
from mmtoolkit.core.config import Layer, config_layer, nested, resolve
from mmtoolkit.core.device import resolve_device
from mmtoolkit.core.errors import ConfigError
from mmtoolkit.core.fields import DeviceName
from mmtoolkit.core.run import RunDirectory
from mmtoolkit.distill.cache import checked_pictures, write_cache
from mmtoolkit.distill.config import DistillSettings
from mmtoolkit.distill.data.cached import CachedExamples, is_cache, open_cache
from mmtoolkit.distill.data.read import PixelExamples, load_images, open_pictures
from mmtoolkit.distill.models.denoiser import Denoiser, Examples, move

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True)
class Base:
    """A base model, unchanged, with the examples to learn from or to judge by.

    Attributes:
        denoiser: the model, on its device.
        examples: clean samples with their conditions.
        meta: what checkpoints of its students keep.
    """

    denoiser: Denoiser
    examples: Examples
    meta: dict[str, Any]


@dataclass(frozen=True)
class Student:
    """A trained student with its averaged weights, ready to draw.

    Attributes:
        settings: of its run.
        denoiser: the student; `denoiser.teacher()` is its teacher.
        examples: the data of its run.
        device: where it computes.
    """

    settings: DistillSettings
    denoiser: Denoiser
    examples: Examples
    device: torch.device


def load(
    checkpoint: Path,
    device: DeviceName | None = None,
    *,
    data: Path | None = None,
    changes: Sequence[Layer] = (),
) -> Student:
    """Open the student of a run.

    Args:
        checkpoint: folder of a run of `distill train`, or of one of its checkpoints.
        device: where to compute; None: as the run did.
        data: its data, if they are not where training found them.
        changes: further changes of the run's settings.

    Raises:
        CheckpointError: if there is no such run, or its base is missing.
        DataError: if its data cannot be used.
    """
    run, _ = RunDirectory.locate(checkpoint)
    layers = [config_layer("distill", str(run.config_path)), *changes]
    for name, value in (("device", device), ("data.path", data)):
        if value is not None:
            layers.append(Layer(name, nested(name, str(value))))
    return load_student(resolve(DistillSettings, layers).settings, checkpoint)


@torch.no_grad()
def load_student(settings: DistillSettings, checkpoint: Path) -> Student:
    """Open a student whose settings are known, see :func:`load`."""
    run, path = RunDirectory.locate(checkpoint)
    base = load_base(settings, run)
    base.denoiser.adapt(settings.model)
    parameters = base.denoiser.trainable()
    weights = matching_weights(load_checkpoint(path, state=False).model, dict(parameters), path)
    for name, parameter in parameters.items():
        parameter.copy_(weights[name])
    return Student(settings, base.denoiser, base.examples, resolve_device(settings.device))


def load_base(
    settings: DistillSettings, run: RunDirectory | None, accelerator: "Accelerator | None" = None
) -> Base:
    """Load the base model of the settings, and its examples.

    Args:
        settings: data, model and precision are used.
        run: folder that gets the cache of a latent family; without it, `data.path` must be a cache.
        accelerator: the processes that train together, of which the first one encodes.
    """
    device = accelerator.device if accelerator else resolve_device(settings.device)
    if settings.model.family == "pixel":
        return _load_pixel(settings, device)
    return _load_latent(settings, run, device, accelerator)


def _load_pixel(settings: DistillSettings, device: torch.device) -> Base:
    from mmtoolkit.distill.models.pixel import load_pixel

    denoiser = load_pixel(settings.model.base, device)
    pictures = open_pictures(settings.data)
    tokens = denoiser.spec.tokens(pictures.texts)
    images = load_images(pictures, denoiser.spec.size)
    examples = PixelExamples(images, tokens, settings.data.flip, pictures.texts)
    return Base(denoiser, examples, {"spec": denoiser.spec.to_json()})


def _load_latent(
    settings: DistillSettings,
    run: RunDirectory | None,
    device: torch.device,
    accelerator: "Accelerator | None",
) -> Base:
    from mmtoolkit.distill.models.families import load_latent

    path = settings.data.path
    if path is not None and is_cache(path):
        examples = open_cache(path, settings)
    elif run is None:
        raise ConfigError(f"data.path: {path} is no cache; make one with `mmtk distill cache`")
    elif accelerator is None:
        examples = write_cache(settings, run.path / "cache")
    else:
        examples = _cache_once(settings, run, accelerator)
    size = examples.facts["size"]
    denoiser = load_latent(settings, size, move(examples.no_prompt, device), device)
    return Base(denoiser, examples, {})


def _cache_once(settings: DistillSettings, run: RunDirectory, accelerator: "Accelerator") -> CachedExamples:
    """Encode the data into the folder of a run, which a stopped command can then resume."""
    with accelerator.main_process_first():  # the others find its cache
        pictures = checked_pictures(settings, run.path / "cache")
        if accelerator.is_main_process:
            run.start()
        return write_cache(settings, run.path / "cache", pictures)
