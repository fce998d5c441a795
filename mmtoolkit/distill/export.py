"""Write a student for other programs, read it back and compare.

`diffusers` and `kohya` files carry the LoRA at scale 1 (alpha equal to the rank) whatever it was trained
with, so that every program loads it without further settings; `merged` is a whole pipeline's folder.
"""

import json
import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from mmtoolkit.core.errors import RunError, UsageError
from mmtoolkit.core.logging import logger
from mmtoolkit.distill.load import FACTS, LatentStudent, student_network, weight_changes
from mmtoolkit.distill.models.families import Family, Source
from mmtoolkit.distill.models.layer_names import original_names
from mmtoolkit.distill.models.lora import Lora, LoraLayer, layer_shapes, read_lora

Format = Literal["diffusers", "kohya", "merged"]
Precision = Literal["float32", "bfloat16", "float16"]
_TOLERANCE = {"float32": 1e-5, "bfloat16": 2e-2, "float16": 2e-3}
_KOHYA_BASES = {"sd15": "sd_v1", "sdxl": "sdxl_base_v1-0", "sd3": "sd3", "flux": "flux1"}


@dataclass(frozen=True)
class ExportResult:
    """What was written.

    Attributes:
        files: paths.
        error: largest absolute difference between what was read back and the student: of the change of a
            layer's weight, or for `merged` of the weight itself.
        largest: largest absolute value of what was compared, to judge the error by.
    """

    files: list[Path]
    error: float
    largest: float


def default_output(checkpoint: Path, form: Format) -> Path:
    """Name what is written: below a run's `export` folder, or beside a LoRA file."""
    name = f"{checkpoint.stem}-{form}" + ("" if form == "merged" else ".safetensors")
    return (checkpoint / "export" if checkpoint.is_dir() else checkpoint.parent) / name


def export(
    student: LatentStudent, form: Format, output: Path, precision: Precision = "float16"
) -> ExportResult:
    """Write a student in one format, read it back and compare.

    Args:
        student: from :func:`~mmtoolkit.distill.load.open_student`.
        form: `diffusers` or `kohya`: a LoRA file; `merged`: a pipeline's folder with the LoRA in its weights.
        output: new file, or for `merged` a new or empty folder.
        precision: of the numbers written.

    Raises:
        UsageError: if `output` is there already, or all weights are to become a LoRA.
        RunError: if what is read back differs by more than the precision explains.
    """
    if output.exists() and (output.is_file() or any(output.iterdir())):
        raise UsageError(f"`output` {output}: already there; name another")
    if student.full and form != "merged":
        raise UsageError("this run trained all weights, which are no LoRA; use `format` merged")
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


def _write_lora(student: LatentStudent, layout: "Layout", output: Path, precision: Precision) -> ExportResult:
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
    """Name a LoRA as Diffusers' `load_lora_weights` reads it, with PEFT's settings in the metadata."""
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
    """Name a LoRA as kohya's trainers do, which ComfyUI and A1111 read.

    UNet layers keep Diffusers' names there; SD 3 and FLUX take the original names, with query, key and value
    fused into one LoRA whose rank is the sum of theirs.
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
    layers = {name: layer.for_files() for name, layer in lora.layers.items()}
    if family.part == "unet":
        return list(layers.items())
    shapes = layer_shapes(network)
    names = original_names(shapes, network)
    return [(name, fuse(layers, parts, shapes)) for name, parts in names.items() if layers.keys() & {*parts}]


def fuse(
    layers: Mapping[str, LoraLayer], parts: tuple[str, ...], shapes: Mapping[str, tuple[int, ...]]
) -> LoraLayer:
    """Join the LoRAs of layers that share their input and are one layer elsewhere.

    The downs are stacked and the ups put on a block diagonal, so that the change of each part stays exact.
    """
    known = {name: layers[name] for name in parts if name in layers}
    rank = sum(layer.rank for layer in known.values())
    up = next(iter(known.values())).up.new_zeros(sum(shapes[name][0] for name in parts), rank)
    row = column = 0
    for name in parts:
        if name in known:
            up[row : row + shapes[name][0], column : column + known[name].rank] = known[name].up
            column += known[name].rank
        row += shapes[name][0]
    return LoraLayer(torch.cat([layer.down for layer in known.values()]), up, float(rank))


Layout = Callable[[Lora, Family, nn.Module], tuple[dict[str, Tensor], dict[str, str]]]
_LAYOUTS: dict[str, Layout] = {"diffusers": diffusers_layout, "kohya": kohya_layout}


def _write_merged(student: LatentStudent, output: Path, precision: Precision) -> ExportResult:
    """Save the base's pipeline with the student's weights in its network and few steps in its scheduler."""
    source, dtype = student.source, getattr(torch, precision)
    network = student_network(student, dtype)
    changes = weight_changes(student, network)
    pipeline = source.pipeline(network)
    if not source.family.flow:
        pipeline.scheduler = few_step_scheduler(pipeline.scheduler, student.facts.get("training_steps", 250))
    pipeline.save_pretrained(output)
    del pipeline, network  # at most two copies of the weights are held
    found = Source(str(output), source.family).network(dtype).state_dict()
    error = largest = 0.0
    for name, value in source.network(dtype).state_dict().items():
        wanted = changes[name](value) if name in changes else value
        largest = max(largest, wanted.abs().max().item())
        error = max(error, (found[name].float() - wanted.float()).abs().max().item())
    return ExportResult([output], error, largest)


def few_step_scheduler(scheduler: Any, training_steps: int) -> Any:
    """Return Diffusers' own scheduler that samples as a TDD student wants, for use without this package."""
    from diffusers import TCDScheduler

    return TCDScheduler.from_config(scheduler.config, original_inference_steps=training_steps)
