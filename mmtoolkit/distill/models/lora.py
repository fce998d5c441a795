"""LoRA weights: read them from any common file, and add trainable ones to a network.

A LoRA adds `alpha / rank * up @ down` to the weight of a layer (Hu et al., arXiv 2106.09685, section 4.1).
Files differ in how they name layers and in whether they store alpha. Names are matched against the layers of
the network itself, so that one rule reads every layout: Diffusers, PEFT, kohya and the original code's.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mmtoolkit.core.errors import CheckpointError
from mmtoolkit.core.files import read_json, read_json_file, read_tensors
from mmtoolkit.core.logging import logger
from mmtoolkit.distill.models.layer_names import original_names

ADAPTER = "default"
"""Name of the adapter in PEFT; a network has one at a time."""


@dataclass(frozen=True)
class LoraLayer:
    """The low-rank change of one layer.

    Attributes:
        down: `(rank, inputs)`, or `(rank, inputs, height, width)` of a convolution.
        up: `(outputs, rank)`, or `(outputs, rank, 1, 1)`.
        alpha: numerator of the scale alpha / rank.
    """

    down: Tensor
    up: Tensor
    alpha: float

    @property
    def rank(self) -> int:
        """Inner size of the two matrices."""
        return self.down.shape[0]

    def delta(self) -> Tensor:
        """Return alpha / rank up @ down, the change of the layer's weight, in its shape and in float32."""
        change = self.up.float().flatten(1) @ self.down.float().flatten(1)
        shape = (self.up.shape[0], *self.down.shape[1:])
        return change.view(shape) * (self.alpha / self.rank)

    def for_files(self) -> "LoraLayer":
        """Return the same change with alpha equal to the rank, which every program reads as scale 1.

        After a short training `up` is small and would underflow in float16. Both matrices are therefore
        brought to about the same size, by a power of two because that is exact.
        """
        up = self.up.float() * (self.alpha / self.rank)
        ratio = up.abs().max().item() / max(self.down.abs().max().item(), 1e-30)
        power = 2.0 ** round(math.log2(ratio) / 2) if ratio else 1.0
        return LoraLayer(self.down.float() * power, up / power, float(self.rank))


@dataclass(frozen=True)
class Lora:
    """The low-rank changes of a network.

    Attributes:
        layers: by dotted name in the Diffusers network.
        metadata: strings stored beside the weights.
    """

    layers: dict[str, LoraLayer]
    metadata: dict[str, str]


def layer_shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return the weight shape of every layer that can have a LoRA, by dotted name."""
    found = {}
    for name, module in network.named_modules():
        layer = getattr(module, "base_layer", module)
        if isinstance(layer, nn.Linear | nn.Conv2d) and ".lora_" not in f".{name}.":
            found[name.removesuffix(".base_layer")] = tuple(layer.weight.shape)
    return found


def find_lora_file(path: Path) -> Path:
    """Return the file of a LoRA: the path itself, or the one LoRA in a folder.

    Raises:
        CheckpointError: if there is none, or more than one to choose from.
    """
    if path.is_file():
        return path
    if not path.is_dir():
        raise CheckpointError(f"{path}: no such file or folder")
    usual = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors")
    for name in usual:
        if (path / name).is_file():
            return path / name
    found = sorted(path.glob("*.safetensors"))
    if len(found) != 1:
        problem = f"holds {len(found)} .safetensors files; name one" if found else "holds no LoRA"
        raise CheckpointError(f"{path}: {problem}" + (f", as {found[0]}" if found else f" ({usual[0]})"))
    return found[0]


def read_lora(path: Path, network: nn.Module, *, scale: float | None = None) -> Lora:
    """Read a LoRA of any layout for a network.

    Args:
        path: a `.safetensors` file, or a folder with one.
        network: the Diffusers network that it is for; only its layers' names and shapes are used.
        scale: alpha / rank of layers whose alpha is not in the file; None is 1, with a warning.

    Raises:
        CheckpointError: if the file is damaged, is not a LoRA, or was made for another base.
    """
    file = find_lora_file(path)
    tensors, metadata = read_tensors(file)
    alphas = _stated_alphas(tensors, metadata, file)
    pairs = _pair_up(tensors, file)
    missing = 0 if "" in alphas else len(pairs.keys() - alphas.keys())
    if missing and scale is None:
        _warn_of_missing_alpha(file, missing, len(pairs))
    shapes = layer_shapes(network)
    names = _known_names(shapes, network)
    layers: dict[str, LoraLayer] = {}
    unmatched = []
    for key, (down, up) in pairs.items():
        alpha = alphas.get(key, alphas.get("", (scale or 1.0) * len(down)))
        fitted = _fit(LoraLayer(down, up, alpha), names.get(key, ()), shapes)
        layers |= fitted
        unmatched += [] if fitted else [key]
    if unmatched:
        raise CheckpointError(_wrong_base(file, unmatched, pairs, network))
    return Lora(layers, metadata)


_SIDE = re.compile(r"^(.+?)[._]lora(?:_linear_layer)?[._](A|B|down|up)(?:\.\w+)?\.weight$")
_PREFIX = re.compile(
    r"^(base_model\.model\.|model\.|module\.|unet\.|transformer\.|diffusion_model\.|lora_unet_|lora_transformer_)"
)
_TEXT = re.compile(r"^(base_model\.model\.)?(text_encoder|lora_te)")
_OTHER_KINDS = ("dora_scale", "lora_magnitude_vector", "hada_", "lokr_", "oft_", "diff_b", ".diff")


def _plain_name(name: str) -> str:
    """Return a layer's name without prefixes and joined by `_`, as kohya writes it."""
    while (shorter := _PREFIX.sub("", name)) != name:
        name = shorter
    name = name.replace(".processor.", ".").replace(".", "_")
    return f"{name}_0" if name.endswith("_to_out") else name


def _pair_up(tensors: Mapping[str, Tensor], file: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """Return down and up of every layer, by the layer's plain name."""
    sides: dict[str, dict[bool, Tensor]] = {}
    text = 0
    for key, tensor in tensors.items():
        if any(kind in key for kind in _OTHER_KINDS):
            raise CheckpointError(
                f"{file}: '{key}' is not plain LoRA (DoRA, LoHa, LoKr and OFT are not supported)"
            )
        match = _SIDE.match(key)
        if _TEXT.match(key):
            text += 1
        elif match:
            sides.setdefault(_plain_name(match[1]), {})[match[2] in {"A", "down"}] = tensor
    if text:
        logger.warning("%s: %d weights of a text encoder are ignored", file, text)
    single = [name for name, both in sides.items() if len(both) < 2]
    if single or not sides:
        problem = f"only half of '{single[0]}' is there" if single else "holds no LoRA weights"
        raise CheckpointError(f"{file}: {problem}; is it damaged or another kind of file?")
    return {name: (both[True], both[False]) for name, both in sides.items()}


def _stated_alphas(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str], file: Path
) -> dict[str, float]:
    """Return the alphas that the file states, by plain name; the empty name is for all layers."""
    found: dict[str, float] = {}
    config = file.parent / "adapter_config.json"
    if "ss_network_alpha" in metadata:
        found[""] = _alpha(metadata["ss_network_alpha"], file)
    if "lora_adapter_metadata" in metadata:
        found |= _peft_alphas(read_json(metadata["lora_adapter_metadata"], file), file)
    elif config.is_file():
        found |= _peft_alphas(read_json_file(config), config)
    for key, tensor in tensors.items():
        if key.endswith(".alpha"):
            found[_plain_name(key.removesuffix(".alpha"))] = float(tensor)
    return found


def _alpha(value: object, file: Path) -> float:
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise CheckpointError(f"{file}: states an alpha that is no number: {value}") from None


def _peft_alphas(config: Mapping[str, Any], file: Path) -> dict[str, float]:
    """Return the alphas in PEFT's settings, whose keys may have the network's name as prefix."""
    plain = {key.removeprefix("unet.").removeprefix("transformer."): value for key, value in config.items()}
    found = {"": _alpha(plain["lora_alpha"], file)} if "lora_alpha" in plain else {}
    pattern = plain.get("alpha_pattern") or {}
    return found | {_plain_name(key.strip("^$")): _alpha(value, file) for key, value in pattern.items()}


def _known_names(shapes: Iterable[str], network: nn.Module) -> dict[str, tuple[str, ...]]:
    """Map every plain name that a file may use to the layers of the network."""
    original = original_names(shapes, network)
    names = {_plain_name(name): layers for name, layers in original.items()}
    return names | {name.replace(".", "_"): (name,) for name in shapes}


def _fit(
    whole: LoraLayer, names: tuple[str, ...], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, LoraLayer]:
    """Split a LoRA between the layers that it was made for; several if it is fused.

    The parts of a fused layer share `down`; each takes its own rows of `up`.

    Returns:
        LoRA by layer; empty if the shapes do not match the network's.
    """
    outputs = [shapes[name][0] for name in names if name in shapes]
    if not names or len(outputs) < len(names) or len(whole.up) != sum(outputs):
        return {}
    fitted = {}
    for name, up in zip(names, whole.up.split(outputs), strict=True):
        down_shape = (whole.rank, *shapes[name][1:])
        up_shape = (len(up), whole.rank, *(1 for _ in shapes[name][2:]))
        if whole.down.numel() != math.prod(down_shape) or up.numel() != math.prod(up_shape):
            return {}
        fitted[name] = LoraLayer(whole.down.reshape(down_shape), up.reshape(up_shape), whole.alpha)
    return fitted


_WIDTHS = {768: "SD 1.x", 1024: "SD 2.x", 2048: "SDXL"}


def _wrong_base(
    file: Path, unmatched: list[str], pairs: Mapping[str, tuple[Tensor, Tensor]], network: nn.Module
) -> str:
    text_inputs = [down.shape[1] for key, (down, _) in pairs.items() if key.endswith("attn2_to_k")]
    guess = _WIDTHS.get(text_inputs[0], "") if text_inputs else ""
    guess = "FLUX" if any("single_" in key for key in pairs) else guess
    return (
        f"{file}: made for another base{f' ({guess})' if guess else ''}: "
        f"{len(unmatched)} of {len(pairs)} layers, such as '{unmatched[0]}', do not fit this "
        f"{type(network).__name__}; name its own base with `base`"
    )


def _warn_of_missing_alpha(file: Path, missing: int, total: int) -> None:
    logger.warning(
        "%s: says no alpha for %d of %d layers; the rank is used instead, which is scale 1. If pictures "
        "look oversaturated, alpha was smaller (8 at rank 64, scale 0.125, in the published TDD files)",
        file,
        missing,
        total,
    )


def add_lora(network: nn.Module, ranks: Mapping[str, int], alphas: Mapping[str, float]) -> None:
    """Add a float32 LoRA to the named layers; `up` starts at zero, so that the output is unchanged at first.

    Args:
        network: a Diffusers network without an adapter.
        ranks: rank of each layer.
        alphas: alpha of each layer.
    """
    from peft import LoraConfig

    from mmtoolkit.distill.models.lora_layers import make_lean

    rank = Counter(ranks.values()).most_common(1)[0][0]
    alpha = Counter(alphas.values()).most_common(1)[0][0]
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]
        target_modules="|".join(re.escape(name) for name in ranks),
        rank_pattern={f"^{re.escape(name)}$": r for name, r in ranks.items() if r != rank},
        alpha_pattern={f"^{re.escape(name)}$": a for name, a in alphas.items() if a != alpha},
    )
    network.add_adapter(config, ADAPTER)  # type: ignore[operator]
    for parameter in network.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    make_lean(network)
