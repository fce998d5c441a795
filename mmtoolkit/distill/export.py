"""Export of students for other programs, read back and compared.

Files in the formats `diffusers` and `kohya` have the LoRA at scale 1 (alpha equal to the rank), whatever its
training used, so that every program loads it with its defaults. `merged` is the folder of a whole pipeline.
"""

import json
import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from mmtoolkit import __version__
from mmtoolkit.core.config import config_layer, resolve
from mmtoolkit.core.errors import RunError, UsageError
from mmtoolkit.core.files import read_json, read_metadata, read_tensors
from mmtoolkit.core.logging import logger
from mmtoolkit.core.run import RunDirectory, check_new
from mmtoolkit.distill.config import DistillSettings
from mmtoolkit.distill.models.families import FAMILIES, Family, Source
from mmtoolkit.distill.models.layer_names import original_names
from mmtoolkit.distill.models.lora import Lora, LoraLayer, find_lora_file, layer_shapes, read_lora

Format = Literal["diffusers", "kohya", "merged"]
Precision = Literal["float32", "bfloat16", "float16"]
FACTS = "mmtoolkit.distill"
"""Key of the training facts, as JSON, in a file's metadata."""
_TOLERANCE = {"float32": 1e-5, "bfloat16": 2e-2, "float16": 2e-3}
_KOHYA_BASES = {"sd15": "sd_v1", "sdxl": "sdxl_base_v1-0", "sd3": "sd3", "flux": "flux1"}


@dataclass(frozen=True)
class Student:
    """A student to export.

    Attributes:
        source: its base model.
        weights: file of the LoRA, or of all weights.
        scale: alpha / rank if the file does not state alpha.
        full: whether `weights` are all weights instead of a LoRA.
        facts: settings that matter for sampling, see :func:`training_facts`.
        factor: factor on the whole LoRA.
    """

    source: Source
    weights: Path
    scale: float | None
    full: bool
    facts: dict[str, Any]
    factor: float = 1.0

    def lora(self, network: nn.Module) -> Lora:
        """Return the LoRA for the base's network, scaled by `factor`."""
        read = read_lora(self.weights, network, scale=self.scale)
        layers = {name: replace(one, alpha=one.alpha * self.factor) for name, one in read.layers.items()}
        return replace(read, layers=layers)


@dataclass(frozen=True)
class ExportResult:
    """Result of an export.

    Attributes:
        files: paths of the files or folders.
        error: largest absolute difference between the export, read back, and the student; of the changes of
            weights, or for `merged` of the weights themselves.
        largest: largest absolute value of the compared numbers, as a scale for the error.
    """

    files: list[Path]
    error: float
    largest: float


def training_facts(settings: DistillSettings) -> dict[str, Any]:
    """Return the settings that matter for sampling from a student."""
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
) -> Student:
    """Open a run or a LoRA file as a student to export.

    Args:
        checkpoint: folder of a run of `distill train`, or a LoRA of any layout.
        base: its base model; None is that of the run.
        family: family of the base; needed for a LoRA file.
        layout: see :class:`Source`.
        lora_scale: factor on the LoRA; if given, there is no warning about a file without alpha.

    Raises:
        CheckpointError: if there is no such checkpoint.
        UsageError: if base or family of a LoRA file are missing, the student is a pixel model, or
            `lora_scale` is given for a student without LoRA.
    """
    if not (checkpoint / "config.yaml").is_file():
        if base is None or family is None:
            raise UsageError(f"{checkpoint}: a LoRA file does not say its base; name `base` and `family`")
        stated = None if lora_scale is None else 1.0
        source = Source.open(base, family, layout)
        file = find_lora_file(checkpoint)
        facts = read_json(read_metadata(file).get(FACTS, "{}"), file)
        return Student(source, file, stated, False, facts, 1.0 if lora_scale is None else lora_scale)
    run = RunDirectory.open(checkpoint)
    settings = resolve(DistillSettings, [config_layer("distill", str(run.config_path))]).settings
    model = settings.model
    if model.family not in FAMILIES:
        raise UsageError(f"{checkpoint}: a {model.family} student cannot be exported; sample it with mmtk")
    full = model.adapter == "full"
    if full and lora_scale is not None:
        raise UsageError(f"`lora_scale`: {checkpoint} trained all weights and has no LoRA; omit it")
    source = Source.open(base or model.base, model.family, layout or model.layout)
    weights = run.checkpoint() / "model.safetensors"
    scale = 1.0 if model.alpha is None else model.alpha / model.rank
    factor = 1.0 if lora_scale is None else lora_scale
    return Student(source, weights, scale, full, training_facts(settings), factor)


def default_output(checkpoint: Path, form: Format) -> Path:
    """Return the default path of an export: in a run's `export` folder, or beside a LoRA file."""
    name = f"{checkpoint.stem}-{form}" + ("" if form == "merged" else ".safetensors")
    return (checkpoint / "export" if checkpoint.is_dir() else checkpoint.parent) / name


def export(student: Student, form: Format, output: Path, precision: Precision = "float16") -> ExportResult:
    """Write a student in one format, read it back and compare the numbers.

    Args:
        student: from :func:`open_student`.
        form: `diffusers` or `kohya` for a LoRA file; `merged` for a pipeline's folder with the LoRA in its
            weights.
        output: new file, or for `merged` a new or empty folder.
        precision: precision of the written numbers.

    Raises:
        UsageError: if `output` exists, or a student without LoRA is exported as LoRA.
        RunError: if the numbers read back differ by more than the rounding error of the precision.
    """
    check_new(output)
    if student.full and form != "merged":
        raise UsageError("this run trained all weights and has no LoRA; use `form` merged")
    output.parent.mkdir(parents=True, exist_ok=True)
    if form == "merged":
        result = _write_merged(student, output, precision)
    else:
        result = _write_lora(student, _LAYOUTS[form], output, precision)
    logger.info("%s: read back, max error %.1e (largest value %.1e)", output, result.error, result.largest)
    if not result.error <= _TOLERANCE[precision] * max(result.largest, 1e-12):
        shutil.rmtree(output) if output.is_dir() else output.unlink()
        raise RunError(
            f"{output}: read back with an error of {result.error:.1e} and deleted; use `precision` float32"
        )
    return result


def _write_lora(student: Student, layout: "Layout", output: Path, precision: Precision) -> ExportResult:
    """Write a LoRA file, and compare the change of each layer's weight after reading it back."""
    network = student.source.empty_network()
    lora = student.lora(network)
    tensors, metadata = layout(lora, student.source.family, network)
    if student.facts:
        metadata[FACTS] = json.dumps(student.facts)
    dtype = getattr(torch, precision)
    save_file({name: value.to(dtype).contiguous() for name, value in tensors.items()}, output, metadata)
    found = read_lora(output, network)
    error = 0.0 if found.layers.keys() >= lora.layers.keys() else math.inf
    largest = 0.0
    for name in lora.layers.keys() & found.layers.keys():
        change = lora.layers[name].delta()
        largest = max(largest, change.abs().max().item())
        error = max(error, (found.layers[name].delta() - change).abs().max().item())
    return ExportResult([output], error, largest)


def diffusers_layout(lora: Lora, family: Family, _: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return tensors and metadata for Diffusers' `load_lora_weights`; the metadata holds PEFT's settings."""
    tensors = {}
    for name, layer in lora.layers.items():
        written = layer.for_files()
        tensors[f"{family.part}.{name}.lora_A.weight"] = written.down
        tensors[f"{family.part}.{name}.lora_B.weight"] = written.up
    ranks = {name: layer.rank for name, layer in lora.layers.items()}
    usual = max(set(ranks.values()), key=list(ranks.values()).count)
    others = {name: rank for name, rank in ranks.items() if rank != usual}
    settings = {
        "r": usual,
        "lora_alpha": usual,
        "target_modules": sorted(ranks),
        "rank_pattern": others,
        "alpha_pattern": others,
    }
    stored = {f"{family.part}.{name}": value for name, value in settings.items()}
    return tensors, {"format": "pt", "lora_adapter_metadata": json.dumps(stored)}


def kohya_layout(lora: Lora, family: Family, network: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return tensors and metadata in the format of kohya's trainers, which ComfyUI and A1111 read.

    UNet layers have Diffusers' names in this format. SD 3 and FLUX have the original names, with query, key
    and value fused into one LoRA whose rank is the sum of theirs.
    """
    tensors = {}
    for name, layer in _kohya_layers(lora, family, network):
        base = f"lora_unet_{name.replace('.', '_')}"
        tensors[f"{base}.lora_down.weight"] = layer.down
        tensors[f"{base}.lora_up.weight"] = layer.up
        tensors[f"{base}.alpha"] = torch.tensor(float(layer.rank))
    rank = max(layer.rank for layer in lora.layers.values())
    metadata = {
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(rank),
        "ss_network_alpha": str(float(rank)),
        "ss_base_model_version": _KOHYA_BASES[family.name],
    }
    return tensors, metadata


def _kohya_layers(lora: Lora, family: Family, network: nn.Module) -> list[tuple[str, LoraLayer]]:
    """Return the LoRA of each layer under its name in the kohya format."""
    layers = {name: layer.for_files() for name, layer in lora.layers.items()}
    if family.part == "unet":
        return list(layers.items())
    shapes = layer_shapes(network)
    names = original_names(shapes, network)
    return [(name, fuse(layers, parts, shapes)) for name, parts in names.items() if layers.keys() & {*parts}]


def fuse(
    layers: Mapping[str, LoraLayer], parts: tuple[str, ...], shapes: Mapping[str, tuple[int, ...]]
) -> LoraLayer:
    """Join the LoRAs of layers that share their input and are one layer in another program.

    The `down` matrices are stacked and the `up` matrices form a block diagonal, so that the change of each
    part is exact. Parts without LoRA get zeros.

    Args:
        layers: LoRA by layer, with alpha equal to the rank.
        parts: layers of the fused layer, in their order.
        shapes: weight shape by layer.
    """
    present = {name: layers[name] for name in parts if name in layers}
    rank = sum(layer.rank for layer in present.values())
    first = next(iter(present.values()))
    up = first.up.new_zeros(sum(shapes[name][0] for name in parts), rank)
    row = column = 0
    for name in parts:
        if name in present:
            up[row : row + shapes[name][0], column : column + present[name].rank] = present[name].up
            column += present[name].rank
        row += shapes[name][0]
    return LoraLayer(torch.cat([layer.down for layer in present.values()]), up, float(rank))


Layout = Callable[[Lora, Family, nn.Module], tuple[dict[str, Tensor], dict[str, str]]]
_LAYOUTS: dict[str, Layout] = {"diffusers": diffusers_layout, "kohya": kohya_layout}


@torch.no_grad()
def student_network(student: Student, dtype: torch.dtype) -> nn.Module:
    """Return the base's network with the student's weights, or with its LoRA merged."""
    network = student.source.network(dtype)
    changes = _changes(student, network)
    for name, value in network.state_dict().items():
        if name in changes:
            value.copy_(changes[name](value))
    return network


def _write_merged(student: Student, output: Path, precision: Precision) -> ExportResult:
    """Save the base's pipeline with the student's network and a scheduler for few steps."""
    source, dtype = student.source, getattr(torch, precision)
    network = student_network(student, dtype)
    changes = _changes(student, network)
    pipeline = source.pipeline(network)
    if not source.family.flow:
        pipeline.scheduler = few_step_scheduler(pipeline.scheduler, student.facts.get("training_steps", 250))
    pipeline.save_pretrained(output)
    del pipeline, network  # so that at most two copies of the weights are in memory
    found = Source(str(output), source.family).network(dtype).state_dict()
    error = largest = 0.0
    for name, value in source.network(dtype).state_dict().items():
        wanted = changes[name](value) if name in changes else value
        largest = max(largest, wanted.abs().max().item())
        error = max(error, (found[name].float() - wanted.float()).abs().max().item())
    return ExportResult([output], error, largest)


def _changes(student: Student, network: nn.Module) -> dict[str, Callable[[Tensor], Tensor]]:
    """Return a function from the base's weight to the student's, in float32, for each changed weight."""
    if student.full:
        weights, _ = read_tensors(student.weights)
        part = f"{student.source.family.part}."
        return {name.removeprefix(part): partial(_replaced, value) for name, value in weights.items()}
    lora = student.lora(network)
    return {f"{name}.weight": partial(_added, layer) for name, layer in lora.layers.items()}


def _replaced(weight: Tensor, base: Tensor) -> Tensor:
    return weight.to(base.device, torch.float32)


def _added(layer: LoraLayer, base: Tensor) -> Tensor:
    return base.float() + layer.delta()


def few_step_scheduler(scheduler: Any, training_steps: int) -> Any:
    """Return the scheduler of Diffusers that is closest to TDD's, for use without this package."""
    from diffusers import TCDScheduler

    return TCDScheduler.from_config(scheduler.config, original_inference_steps=training_steps)
