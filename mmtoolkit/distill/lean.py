"""LoRA layers that do less: PEFT's, without its casts to float32 and its extra passes over the output.

PEFT casts a layer's input to the adapter's float32 (autocast casts it back), multiplies the branch by
alpha / rank and adds it, each a pass over a whole activation. Here the input is cast once to the base's
precision, the small matrices carry the scale, and the branch is added by the product itself.
"""

from typing import Any, cast

import torch
from peft.tuners.lora import Conv2d, Linear
from torch import Tensor, nn
from torch.nn import functional as F


class LeanLinear(Linear):
    """A linear layer with one adapter."""

    def forward(self, x: Tensor) -> Tensor:
        """Return W x + alpha / rank B A x for x `(..., inputs)`."""
        layer: Any = self.base_layer
        if self.disable_adapters or self.merged:
            return cast("Tensor", layer(x))
        x = x.to(layer.weight.dtype)
        down, up = small_matrices(self, x.dtype)
        base, inner = layer(x), F.linear(x, down)
        return torch.addmm(base.flatten(0, -2), inner.flatten(0, -2), up.t()).view_as(base)


class LeanConv2d(Conv2d):
    """A convolution with one adapter."""

    def forward(self, x: Tensor) -> Tensor:
        """Return W * x + alpha / rank B * (A * x) for x `(rows, channels, height, width)`."""
        layer: Any = self.base_layer
        if self.disable_adapters or self.merged:
            return cast("Tensor", layer(x))
        x = x.to(layer.weight.dtype)
        down, up = small_matrices(self, x.dtype)
        inner = F.conv2d(x, down, None, layer.stride, layer.padding, layer.dilation)
        return cast("Tensor", layer(x) + F.conv2d(inner, up))


def small_matrices(layer: Any, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return down and up of a layer's adapter in a precision; up carries alpha / rank."""
    (adapter,) = layer.active_adapters
    down, up = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
    scale = layer.scaling[adapter]
    return down.to(dtype), (up if scale == 1 else up * scale).to(dtype)


def make_lean(network: nn.Module) -> None:
    """Let PEFT's plain LoRA layers compute the lean way; their weights, names and switches stay."""
    kinds: dict[type, type] = {Linear: LeanLinear, Conv2d: LeanConv2d}
    for module in network.modules():
        if type(module) in kinds and getattr(module.base_layer, "groups", 1) == 1:
            module.__class__ = kinds[type(module)]
