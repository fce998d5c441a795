"""Batch normalisation over the batches of all processes, on any device."""

import torch
from torch import Tensor, nn


class _SumOverProcesses(torch.autograd.Function):
    """Sum of a tensor over all processes; its gradient is the sum of their gradients."""

    @staticmethod
    def forward(_context: object, values: Tensor) -> Tensor:
        total = values.clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(_context: object, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        torch.distributed.all_reduce(total)
        return total


class SharedBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation whose mean and variance are those of all processes' batches together.

    torch's SyncBatchNorm needs CUDA; this one needs only an all-reduce.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `(n, channels, h, w)`; n must be the same in all processes."""
        if not self.training:
            return super().forward(x)
        values = x.float()
        sums = torch.stack([values.sum((0, 2, 3)), values.square().sum((0, 2, 3))])
        count = values.numel() / values.shape[1] * torch.distributed.get_world_size()
        mean, square = (_SumOverProcesses.apply(sums) / count).unbind()  # one exchange for both moments
        variance = square - mean.square()
        self._remember(mean.detach(), variance.detach() * count / (count - 1))
        assert self.weight is not None
        scale = self.weight * torch.rsqrt(variance + self.eps)
        shift = self.bias - mean * scale
        normalised: Tensor = values * scale[:, None, None] + shift[:, None, None]
        return normalised.to(x.dtype)

    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running mean and variance, which evaluation uses."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        momentum = 0.1 if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(variance, momentum)
        self.num_batches_tracked.add_(1)


def share_norms(model: nn.Module) -> None:
    """Make every batch normalisation of a model a shared one, in place; the weights keep their names."""
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SharedBatchNorm2d
