"""Faster versions of PEFT's LoRA layers (Hu et al., arXiv 2106.09685), with the same weights and results.

PEFT casts a layer's input to the adapter's float32 (autocast casts it back), multiplies the LoRA branch by
alpha / rank and adds it to the output. Each of these is a pass over a whole activation. Here the input is
cast once, to the base's precision; the small matrices are scaled instead of the activation; and one fused
operation multiplies and adds.

In float32 and with many rows it is cheaper still to compute W + alpha / rank B A first: then one product
gives the output, and one the gradient of the input. In half precision the sum would round B A away, because
it is much smaller than W.
"""

from typing import Any, cast

import torch
from peft.tuners.lora import Conv2d, Linear
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

_convolution_backward: Any = torch.ops.aten.convolution_backward


class LeanLinear(Linear):
    """A linear layer with one LoRA."""

    def forward(self, x: Tensor) -> Tensor:
        """Return W x + alpha / rank B A x, `(..., outputs)`, for x `(..., inputs)`."""
        layer: Any = self.base_layer
        if self.disable_adapters or self.merged:
            return cast("Tensor", layer(x))
        x = x.to(layer.weight.dtype)
        down, up = small_matrices(self, x.dtype)
        if pays_to_merge(self, x, x.numel() // x.shape[-1]):
            return cast("Tensor", MergedLinear.apply(x, layer.weight, layer.bias, down, up))
        base, inner = layer(x), F.linear(x, down)
        # addmm adds inside the product, which saves a pass over the output
        return torch.addmm(base.flatten(0, -2), inner.flatten(0, -2), up.t()).view_as(base)


class LeanConv2d(Conv2d):
    """A convolution with one LoRA."""

    def forward(self, x: Tensor) -> Tensor:
        """Return W * x + alpha / rank B * (A * x) for x `(rows, channels, height, width)`."""
        layer: Any = self.base_layer
        if self.disable_adapters or self.merged:
            return cast("Tensor", layer(x))
        x = x.to(layer.weight.dtype)
        down, up = small_matrices(self, x.dtype)
        geometry = layer.stride, layer.padding, layer.dilation
        # a strided view of one channel has as many elements as the output has rows times positions
        if pays_to_merge(self, x, x[:, 0, :: layer.stride[0], :: layer.stride[1]].numel()):
            return cast("Tensor", MergedConv2d.apply(x, layer.weight, layer.bias, down, up, geometry))
        inner = F.conv2d(x, down, None, *geometry)
        return cast("Tensor", layer(x) + F.conv2d(inner, up))


def small_matrices(layer: Any, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return down, and up times alpha / rank, of a layer's LoRA in the given precision."""
    (adapter,) = layer.active_adapters
    down, up = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
    scale = layer.scaling[adapter]
    return down.to(dtype), (up if scale == 1 else up * scale).to(dtype)


def pays_to_merge(layer: Any, x: Tensor, rows: int) -> bool:
    """Return whether merging B A into W is exact enough and costs less than a separate branch.

    B A takes rank * inputs * outputs products; the branch takes rank * rows * (inputs + outputs).

    Args:
        layer: a layer with its LoRA.
        x: its input.
        rows: rows of its output; for a convolution, rows times positions.
    """
    device = x.device.type
    # under autocast the product runs in half precision although x is float32
    autocast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    exact = x.dtype == torch.float32 and not autocast
    outputs, inputs = layer.base_layer.weight.flatten(1).shape
    return bool(exact and rows * (inputs + outputs) > inputs * outputs)


def merged_weight(weight: Tensor, down: Tensor, up: Tensor) -> Tensor:
    """Return W + B A in the shape of W; `up` already has the scale alpha / rank."""
    return torch.addmm(weight.flatten(1), up.flatten(1), down.flatten(1)).view_as(weight)


class MergedLinear(torch.autograd.Function):
    """(W + B A) x for a frozen W.

    Autograd would keep W + B A for each layer until the backward pass. This computes it a second time
    instead, so that of the activations only x is kept.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor) -> Tensor:
        """Return (W + B A) x, `(..., outputs)`, for x `(..., inputs)`."""
        ctx.save_for_backward(x, weight, down, up)
        return F.linear(x, merged_weight(weight, down, up), bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of x, A and B; W and its bias are frozen."""
        x, weight, down, up = ctx.saved_tensors
        outer, rows = gradient.flatten(0, -2), x.flatten(0, -2)
        of_x = gradient @ merged_weight(weight, down, up) if ctx.needs_input_grad[0] else None
        # rank-sized factors come first: outer.t() @ rows would be a whole weight gradient
        return of_x, None, None, (outer @ up).t() @ rows, outer.t() @ (rows @ down.t())


class MergedConv2d(torch.autograd.Function):
    """(W + B A) * x for a frozen W, see :class:`MergedLinear`."""

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
        """Return the gradients of x, A and B; W and its bias are frozen."""
        x, weight, down, up = ctx.saved_tensors
        # the other arguments of convolution_backward: no bias, geometry, not transposed, no padding, 1 group
        rest = (None, *ctx.geometry, False, (0, 0), 1)
        of_x = None
        if ctx.needs_input_grad[0]:
            merged = merged_weight(weight, down, up)
            of_x = _convolution_backward(gradient, x, merged, *rest, (True, False, False))[0]
        # up is a 1 x 1 convolution, so its gradients are plain matrix products over the positions
        outer = gradient.flatten(2)
        of_inner = (up.flatten(1).t() @ outer).view(len(x), -1, *gradient.shape[2:])
        of_down = _convolution_backward(of_inner, x, down, *rest, (False, True, False))[1]
        # the inner activation is computed a second time, so that it need not be kept
        inner = F.conv2d(x, down, None, *ctx.geometry).flatten(2)
        of_up = (outer @ inner.transpose(1, 2)).sum(0).view_as(up)
        return of_x, None, None, of_down, of_up, None


def make_lean(network: nn.Module) -> None:
    """Replace the class of PEFT's plain LoRA layers, in place; weights, names and switches do not change.

    Grouped convolutions keep PEFT's class, because a merged weight would need B A per group.
    """
    kinds: dict[type, type] = {Linear: LeanLinear, Conv2d: LeanConv2d}
    for module in network.modules():
        if type(module) in kinds and getattr(module.base_layer, "groups", 1) == 1:
            module.__class__ = kinds[type(module)]
