"""LoRA layers that do less: PEFT's, without its casts to float32 and its extra passes over the output.

PEFT casts a layer's input to the adapter's float32 (autocast casts it back), multiplies the branch by
alpha / rank and adds it, each a pass over a whole activation. Here the input is cast once to the base's
precision, the small matrices carry the scale, and the branch is added by the product itself.

Where all is float32 and there are many rows, W + alpha / rank B A is made for the moment instead and stands
for both: one product forwards, one for the gradient of the input. Half precision would round B A away.
"""

from typing import Any, cast

import torch
from peft.tuners.lora import Conv2d, Linear
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

_convolution_backward: Any = torch.ops.aten.convolution_backward


class LeanLinear(Linear):
    """A linear layer with one adapter."""

    def forward(self, x: Tensor) -> Tensor:
        """Return W x + alpha / rank B A x for x `(..., inputs)`."""
        layer: Any = self.base_layer
        if self.disable_adapters or self.merged:
            return cast("Tensor", layer(x))
        x = x.to(layer.weight.dtype)
        down, up = small_matrices(self, x.dtype)
        if pays_to_merge(self, x, x.numel() // x.shape[-1]):
            return cast("Tensor", MergedLinear.apply(x, layer.weight, layer.bias, down, up))
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
        geometry = layer.stride, layer.padding, layer.dilation
        if pays_to_merge(self, x, x[:, 0, :: layer.stride[0], :: layer.stride[1]].numel()):
            return cast("Tensor", MergedConv2d.apply(x, layer.weight, layer.bias, down, up, geometry))
        inner = F.conv2d(x, down, None, *geometry)
        return cast("Tensor", layer(x) + F.conv2d(inner, up))


def small_matrices(layer: Any, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return down and up of a layer's adapter in a precision; up carries alpha / rank."""
    (adapter,) = layer.active_adapters
    down, up = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
    scale = layer.scaling[adapter]
    return down.to(dtype), (up if scale == 1 else up * scale).to(dtype)


def pays_to_merge(layer: Any, x: Tensor, rows: int) -> bool:
    """Tell whether B A costs less than the branch: in out against rows (in + out), both times the rank.

    Args:
        layer: with its adapter.
        x: what it is given.
        rows: that the layer puts out, places of a picture included.
    """
    place = x.device.type
    autocast = torch.amp.is_autocast_available(place) and torch.is_autocast_enabled(place)
    exact = x.dtype == torch.float32 and not autocast
    outputs, inputs = layer.base_layer.weight.flatten(1).shape
    return bool(exact and rows * (inputs + outputs) > inputs * outputs)


def merged_weight(weight: Tensor, down: Tensor, up: Tensor) -> Tensor:
    """Return W + B A in the shape of W."""
    return torch.addmm(weight.flatten(1), up.flatten(1), down.flatten(1)).view_as(weight)


class MergedLinear(torch.autograd.Function):
    """(W + B A) x of a frozen W; B A is made again on the way back, so that only x is kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor) -> Tensor:
        """Multiply x `(..., inputs)`."""
        ctx.save_for_backward(x, weight, down, up)
        return F.linear(x, merged_weight(weight, down, up), bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of x, A and B."""
        x, weight, down, up = ctx.saved_tensors
        outer, rows = gradient.flatten(0, -2), x.flatten(0, -2)
        of_x = gradient @ merged_weight(weight, down, up) if ctx.needs_input_grad[0] else None
        return of_x, None, None, (outer @ up).t() @ rows, outer.t() @ (rows @ down.t())


class MergedConv2d(torch.autograd.Function):
    """(W + B A) * x of a frozen W, see :class:`MergedLinear`."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor, geometry: Any
    ) -> Tensor:
        """Convolve x `(rows, channels, height, width)`; `geometry` is stride, padding and dilation."""
        ctx.save_for_backward(x, weight, down, up)
        ctx.geometry = geometry
        return F.conv2d(x, merged_weight(weight, down, up), bias, *geometry)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of x, A and B."""
        x, weight, down, up = ctx.saved_tensors
        rest = (None, *ctx.geometry, False, (0, 0), 1)
        of_x = None
        if ctx.needs_input_grad[0]:
            whole = merged_weight(weight, down, up)
            of_x = _convolution_backward(gradient, x, whole, *rest, (True, False, False))[0]
        outer = gradient.flatten(2)
        of_inner = (up.flatten(1).t() @ outer).view(len(x), -1, *gradient.shape[2:])
        of_down = _convolution_backward(of_inner, x, down, *rest, (False, True, False))[1]
        inner = F.conv2d(x, down, None, *ctx.geometry).flatten(2)
        of_up = (outer @ inner.transpose(1, 2)).sum(0).view_as(up)
        return of_x, None, None, of_down, of_up, None


def make_lean(network: nn.Module) -> None:
    """Let PEFT's plain LoRA layers compute the lean way; their weights, names and switches stay."""
    kinds: dict[type, type] = {Linear: LeanLinear, Conv2d: LeanConv2d}
    for module in network.modules():
        if type(module) in kinds and getattr(module.base_layer, "groups", 1) == 1:
            module.__class__ = kinds[type(module)]
