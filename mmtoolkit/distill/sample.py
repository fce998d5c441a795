"""Draw pictures with a student: of the pixel family directly, of the others in a stock Diffusers pipeline."""

import functools
import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from pydantic import ValidationError
from torch import Tensor

from mmtoolkit import __version__
from mmtoolkit.core.device import resolve_device
from mmtoolkit.core.errors import CheckpointError, UsageError
from mmtoolkit.core.fields import DeviceName
from mmtoolkit.core.logging import logger
from mmtoolkit.core.run import check_new
from mmtoolkit.distill.config import SHAPES, TargetSettings
from mmtoolkit.distill.data.synthetic import make_shapes
from mmtoolkit.distill.load import LatentStudent, PixelStudent, is_pixel, load, student_network
from mmtoolkit.distill.sampling.generate import (
    draw_grid,
    step_guidance,
    student_guidance,
    student_samples,
    to_bytes,
)
from mmtoolkit.distill.sampling.grids import ScheduleKind
from mmtoolkit.distill.training.steps import step_generator

_HUB_ID = re.compile(r"[\w-]+/[\w.-]+(/[\w./-]+\.safetensors)?")


@dataclass(frozen=True)
class SampleSettings:
    """How to draw.

    Attributes:
        steps: network calls.
        guidance: guidance scale in the teacher's units; none: what the student was trained with.
        eta: share of each jump that is noised back, in [0, 1].
        schedule: placement of the steps.
        seed: of the noise; picture i of a seed is the same whatever the count.
        count: number of pictures; texts are repeated in order.
        clip_steps: first steps with dynamic thresholding.
        lora_scale: factor on the LoRA, none being 1 (not for pixel models).
        damped: weaken guidance above the student's own over long jumps, see
            :func:`~mmtoolkit.distill.sampling.generate.damped_guidance`; not in FLUX's pipeline.
    """

    steps: int = 4
    guidance: float | None = None
    eta: float = 0.0
    schedule: ScheduleKind = "equidistant"
    seed: int = 0
    count: int = 16
    clip_steps: int = 0
    lora_scale: float | None = None
    damped: bool = True


@dataclass(frozen=True)
class Samples:
    """What was drawn.

    Attributes:
        images: pictures.
        texts: caption, class or prompt of each.
        settings: what each PNG carries.
        seconds: of drawing alone, without loading.
    """

    images: list[Image.Image]
    texts: list[str]
    settings: dict[str, Any]
    seconds: float


def sample(
    checkpoint: str | Path | PixelStudent | LatentStudent = SHAPES,
    texts: Sequence[str] = (),
    settings: SampleSettings | None = None,
    *,
    base: str | None = None,
    family: str | None = None,
    layout: str | None = None,
    device: DeviceName = "auto",
) -> Samples:
    """Draw pictures with a few-step student.

    Args:
        checkpoint: `shapes`, a run of `distill train`, a LoRA file, a LoRA on the hub (`owner/name` or
            `owner/name/file.safetensors`), or a student from :func:`~mmtoolkit.distill.load.load`.
        texts: prompts, captions or classes; a pixel student has some of its own.
        settings: how to draw.
        base: the base model, if it is not the run's.
        family: of the base, for a LoRA file.
        layout: for a base in a single file, see :class:`~mmtoolkit.distill.config.ModelSettings`.
        device: where to compute; a loaded pixel student stays where it is.

    Returns:
        The pictures, with the settings that each PNG will hold.

    Raises:
        CheckpointError: if the student or its base cannot be loaded.
        UsageError: if a text or setting cannot be used.
    """
    settings = settings or SampleSettings()
    if settings.count < 1 or settings.steps < 1 or not 0 <= settings.eta <= 1:
        raise UsageError("`count` and `steps` must be at least 1, `eta` must be in [0, 1]")
    student = checkpoint
    if isinstance(student, str | Path):
        student = _open(str(student), texts, settings, base=base, family=family, layout=layout, device=device)
    if isinstance(student, PixelStudent):
        return _sample_pixel(student, texts, settings)
    return _sample_latent(student, texts, settings, resolve_device(device))


def _open(
    checkpoint: str,
    texts: Sequence[str],
    settings: SampleSettings,
    *,
    base: str | None,
    family: str | None,
    layout: str | None,
    device: DeviceName,
) -> PixelStudent | LatentStudent:
    """Open a student, fetching a LoRA from the hub if it is named by a hub id."""
    local = checkpoint
    if family not in (None, "pixel") or not is_pixel(checkpoint):
        local_name = Path(checkpoint).parts[0] == "runs" or not _HUB_ID.fullmatch(checkpoint)
        if not Path(checkpoint).exists() and local_name:
            raise CheckpointError(f"{checkpoint}: no such run or file, and not a hub id")
        _check_texts(texts)
        local = checkpoint if Path(checkpoint).exists() else str(fetch_lora(checkpoint))
    scale = settings.lora_scale
    student = load(local, base=base, family=family, layout=layout, lora_scale=scale, device=device)
    return replace(student, name=checkpoint)


def _check_texts(texts: Sequence[str]) -> None:
    if not texts:
        raise UsageError("name what to draw with `prompt` or `prompts`")


def _sample_pixel(student: PixelStudent, texts: Sequence[str], settings: SampleSettings) -> Samples:
    denoiser, targets = student.denoiser, student.targets
    device = denoiser.device
    _check_steps(settings.steps, targets.training_steps)
    texts = list(texts) or _own_texts(denoiser.spec.kind, denoiser.spec.words, student.name, settings)
    texts = [texts[index % len(texts)] for index in range(settings.count)]
    condition = {"tokens": denoiser.spec.tokens(texts).to(device)}
    scale = _student_scale(targets, settings)
    start = time.perf_counter()
    noise = torch.stack([_noise(settings.seed, index, denoiser.shape) for index in range(settings.count)])
    samples = student_samples(
        denoiser,
        condition,
        noise.to(device),
        steps=settings.steps,
        training_steps=targets.training_steps,
        guidance=scale,
        eta=settings.eta,
        schedule=settings.schedule,
        clip_steps=settings.clip_steps,
        damped=settings.damped,
        generator=step_generator(settings.seed, -1, torch.device("cpu")),
    )
    arrays = to_bytes(denoiser.decode(samples))
    seconds = time.perf_counter() - start
    facts = _facts(student.name, targets.guidance, settings)
    return Samples([Image.fromarray(array) for array in arrays], texts, facts, seconds)


def _check_steps(steps: int, training_steps: int) -> None:
    if steps > training_steps:
        raise UsageError(f"`steps` {steps}: this student knows {training_steps} at most")


def _noise(seed: int, index: int, shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape, generator=step_generator(seed, index, torch.device("cpu")))


def _own_texts(kind: str, words: Sequence[str], checkpoint: str, settings: SampleSettings) -> list[str]:
    """Return texts for a student that was given none."""
    if kind == "none":
        return [""]
    if kind == "class":
        return list(words)
    if checkpoint == SHAPES or {"circle", "square", "purple"} <= set(words):
        return make_shapes(settings.count, seed=10_000 + settings.seed)[1]
    raise UsageError(f"{checkpoint}: has no texts of its own; name captions with `prompt`")


def _student_scale(targets: TargetSettings, settings: SampleSettings) -> float:
    """Convert the guidance, and warn if the student was not trained for it."""
    if settings.guidance is None:
        return 1.0
    scale = student_guidance(settings.guidance, targets.guidance)
    if targets.drop == 0 and scale != 1:
        logger.warning(
            "this student was trained without empty rows (rho 0): only its built-in guidance %g is exact",
            1 + targets.guidance,
        )
    return scale


def _facts(checkpoint: str, strength: float, settings: SampleSettings) -> dict[str, Any]:
    guidance = 1 + strength if settings.guidance is None else settings.guidance
    return asdict(settings) | {"checkpoint": checkpoint, "guidance": guidance, "mmtoolkit": __version__}


def _sample_latent(
    student: LatentStudent, texts: Sequence[str], settings: SampleSettings, device: torch.device
) -> Samples:
    _check_texts(texts)
    targets = _stated_targets(student.facts, student.name)
    _check_steps(settings.steps, targets.training_steps)
    if not student.facts and settings.guidance is not None:
        logger.warning(
            "%s does not state its guidance strength; `guidance` is in units of the student", student.name
        )
    dtype = torch.float32 if device.type == "cpu" else torch.float16
    pipeline = student.source.pipeline(student_network(student, dtype)).to(device)
    pipeline.scheduler = _scheduler(pipeline, student.source.family.flow, targets, settings)
    scale = _student_scale(targets, settings)
    call = _pipeline_arguments(student.source.family.name, scale, settings)
    if scale > 1 and settings.damped and "guidance_scale" in call:
        call |= _damping(pipeline.scheduler, scale, settings.steps)
    pipeline.set_progress_bar_config(disable=True)
    texts = [texts[index % len(texts)] for index in range(settings.count)]
    start = time.perf_counter()
    images = [
        pipeline(text, generator=step_generator(settings.seed, index, torch.device("cpu")), **call).images[0]
        for index, text in enumerate(texts)
    ]
    seconds = time.perf_counter() - start
    return Samples(images, texts, _facts(student.name, targets.guidance, settings), seconds)


def _stated_targets(facts: Mapping[str, Any], checkpoint: str) -> TargetSettings:
    """Return what a LoRA file states of its training; one that states nothing has no built-in guidance."""
    names = {"guidance": 0.0, "drop": 0.2, "training_steps": 250}
    try:
        return TargetSettings.model_validate({name: facts.get(name, usual) for name, usual in names.items()})
    except ValidationError as error:
        reason = error.errors()[0]
        raise CheckpointError(f"{checkpoint}: states {reason['loc'][0]}: {reason['msg'].lower()}") from None


def _scheduler(pipeline: Any, flow: bool, targets: TargetSettings, settings: SampleSettings) -> Any:
    from mmtoolkit.distill.sampling.scheduler import TDDFlowScheduler, TDDScheduler

    kind = TDDFlowScheduler if flow else TDDScheduler
    scheduler = kind.from_config(
        pipeline.scheduler.config,
        training_steps=targets.training_steps,
        schedule=settings.schedule,
        clip_steps=settings.clip_steps,
    )
    if flow:  # these pipelines do not pass eta on
        scheduler.step = functools.partial(scheduler.step, eta=settings.eta)
    return scheduler


def _pipeline_arguments(family: str, scale: float, settings: SampleSettings) -> dict[str, Any]:
    """Name guidance and eta as each family's pipeline does."""
    if scale < 1:
        logger.warning("stock pipelines cannot weaken guidance; the strength that is built in is used")
    call: dict[str, Any] = {"num_inference_steps": settings.steps}
    if family == "flux":
        return call | ({"true_cfg_scale": scale, "negative_prompt": ""} if scale > 1 else {})
    call["guidance_scale"] = max(1.0, scale)
    return call if family == "sd3" else call | {"eta": settings.eta}


def _damping(scheduler: Any, scale: float, steps: int) -> dict[str, Any]:
    """Let a pipeline take another guidance scale at each step, by the callback that it calls after one."""
    scheduler.set_timesteps(steps)
    scales = step_guidance(scheduler.levels, scheduler.grid, scale, damped=True)

    def after(pipeline: Any, step: int, _: Any, values: dict[str, Any]) -> dict[str, Any]:
        pipeline._guidance_scale = scales[min(step + 1, steps - 1)]
        return values

    return {"guidance_scale": scales[0], "callback_on_step_end": after}


def fetch_lora(name: str) -> Path:
    """Download a LoRA from the hub: `owner/name`, or `owner/name/file.safetensors`.

    Raises:
        CheckpointError: if the hub has no such file.
    """
    from huggingface_hub import hf_hub_download, list_repo_files

    owner, repository, *rest = name.split("/", 2)
    hub_id = f"{owner}/{repository}"
    try:
        file = rest[0] if rest else _only_lora(hub_id, list_repo_files(hub_id))
        return Path(hf_hub_download(hub_id, file))
    except CheckpointError:
        raise
    except Exception as error:  # the client also raises errors of its HTTP library, which changes
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{name}: cannot be fetched from the hub: {reason}") from None


def _only_lora(hub_id: str, files: Sequence[str]) -> str:
    found = [file for file in files if file.endswith(".safetensors")]
    if len(found) == 1:
        return found[0]
    listed = ", ".join(found[:8]) or "none"
    raise CheckpointError(f"{hub_id}: has {len(found)} .safetensors files ({listed}); name {hub_id}/FILE")


def read_prompts(prompts: Sequence[str], file: Path | None) -> list[str]:
    """Join prompts with those of a file, one per line.

    Raises:
        UsageError: if the file cannot be read or is empty.
    """
    if file is None:
        return list(prompts)
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"`prompts` {file}: cannot be read: {error}") from None
    if not any(lines):
        raise UsageError(f"`prompts` {file}: has no prompt; write one per line")
    return [*prompts, *filter(None, lines)]


def write_samples(samples: Samples, folder: Path, *, grid: bool = True) -> list[Path]:
    """Write each picture, and a grid of all, as PNG with its settings inside (`mmtk` text chunk).

    Raises:
        UsageError: if the folder is in use or cannot be made.
    """
    check_new(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"`output` {folder}: cannot be made: {error.strerror}") from None
    written = []
    for index, (image, text) in enumerate(zip(samples.images, samples.texts, strict=True)):
        path = folder / f"{index:04d}.png"
        image.save(path, pnginfo=_png_info(samples.settings | {"index": index, "text": text}))
        written.append(path)
    if grid:
        pictures = torch.stack([_as_tensor(image) for image in samples.images])
        columns = max(1, round(len(pictures) ** 0.5))
        path = folder / "grid.png"
        draw_grid(pictures, columns).save(
            path, pnginfo=_png_info(samples.settings | {"texts": samples.texts})
        )
        written.insert(0, path)
    return written


def _as_tensor(image: Image.Image) -> Tensor:
    import numpy as np

    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1) / 127.5 - 1


def _png_info(facts: dict[str, Any]) -> PngInfo:
    info = PngInfo()
    info.add_itxt("mmtk", json.dumps(facts, ensure_ascii=False))
    return info
