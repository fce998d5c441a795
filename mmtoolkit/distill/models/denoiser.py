"""The interface of all model families, and the noise algebra that training and sampling share.

A noisy sample is x_t = alpha[t] x_0 + sigma[t] noise on 1000 timesteps t = 0..999. Variance-preserving
models take alpha and sigma from their betas; flow models have sigma = shift u / (1 + (shift - 1) u) with
u = (t + 1) / 1000 and alpha = 1 - sigma. Training and sampling read only these two tables, so that one
training step and one sampler serve all families.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, Self

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from mmtoolkit.distill.config import ModelSettings

Condition = dict[str, Tensor]
"""Conditioning tensors by name, such as token ids or text embeddings, each `(rows, ...)`."""
Prediction = Literal["epsilon", "v_prediction", "sample", "flow"]
TIMESTEPS = 1000


@dataclass(frozen=True)
class Levels:
    """Signal and noise at each timestep.

    Attributes:
        alpha: factor of the clean sample, `(1000,)`.
        sigma: factor of the noise, `(1000,)`.
        times: time input of the network, `(1000,)`: t itself, or 1000 sigma for flow models.
    """

    alpha: Tensor
    sigma: Tensor
    times: Tensor

    @classmethod
    def from_alphas_cumprod(cls, alphas_cumprod: Tensor) -> Self:
        """Tabulate a variance-preserving model from the cumulative products of 1 - beta, `(1000,)`."""
        times = torch.arange(len(alphas_cumprod), device=alphas_cumprod.device)
        return cls(alphas_cumprod.sqrt(), (1 - alphas_cumprod).sqrt(), times)

    @classmethod
    def flow(cls, shift: float = 1.0) -> Self:
        """Tabulate a flow-matching model on shifted sigmas (Esser et al., arXiv 2403.03206, eq. 23)."""
        u = torch.arange(1, TIMESTEPS + 1, dtype=torch.float64) / TIMESTEPS
        sigma = (shift * u / (1 + (shift - 1) * u)).float()
        return cls(1 - sigma, sigma, TIMESTEPS * sigma)

    def to(self, device: torch.device) -> Self:
        """Return the tables on another device."""
        return type(self)(self.alpha.to(device), self.sigma.to(device), self.times.to(device))

    def at(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return alpha and sigma of timesteps t `(rows,)`, shaped to multiply `like` `(rows, ...)`."""
        shape = (-1, *(1,) * (like.dim() - 1))
        return self.alpha[t].view(shape), self.sigma[t].view(shape)

    def turn(self, t: int, target: int | None) -> float:
        """Return the cosine of the angle between (alpha, sigma) at t and at `target`.

        A DDIM jump is a rotation in the plane of clean sample and noise, if each (alpha, sigma) is scaled to
        length 1. This is the cosine of its angle.

        Args:
            t: timestep at the start of the jump.
            target: timestep at its end; None is the clean sample.
        """
        start = torch.stack([self.alpha[t], self.sigma[t]])
        end = start.new_tensor([1.0, 0.0])
        if target is not None:
            end = torch.stack([self.alpha[target], self.sigma[target]])
        return float(torch.cosine_similarity(start, end, dim=0))

    def noised(self, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return x_t = alpha x_0 + sigma noise, all `(rows, ...)`."""
        alpha, sigma = self.at(t, clean)
        return alpha * clean + sigma * noise


def to_x0_eps(
    output: Tensor, x: Tensor, alpha: Tensor, sigma: Tensor, prediction: Prediction
) -> tuple[Tensor, Tensor]:
    """Convert a network's output at x = alpha x_0 + sigma eps into estimates of x_0 and eps.

    Args:
        output: output of the network, the shape of x.
        x: noisy sample, in float32 or wider.
        alpha: factor of the clean sample, broadcastable to x.
        sigma: factor of the noise, broadcastable to x.
        prediction: what the network predicts; `v_prediction` is alpha eps - sigma x_0, `flow` is eps - x_0.

    Returns:
        x_0 and eps, each of the shape of x.
    """
    output = output.to(x.dtype)
    if prediction == "epsilon":
        return (x - sigma * output) / alpha, output
    if prediction == "sample":
        return output, (x - alpha * output) / sigma
    if prediction == "v_prediction":
        return alpha * x - sigma * output, sigma * x + alpha * output
    return x - sigma * output, x + alpha * output


class Denoiser(Protocol):
    """A base model and its trainable parameters; each family implements this interface.

    Attributes:
        network: the module that Accelerate wraps; `predict` must call it through this attribute.
        levels: signal and noise of its timesteps.
        prediction: what the network predicts.
        shape: shape of one sample, `(channels, height, width)`.
    """

    network: nn.Module
    levels: Levels
    prediction: Prediction
    shape: tuple[int, ...]

    def predict(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Run the network on x `(rows, *shape)` at timesteps t `(rows,)` in 0..999; return the shape of x."""
        ...

    def empty(self, condition: Condition) -> Condition:
        """Return the empty condition for as many rows, exactly as the sampling pipeline encodes it."""
        ...

    def teacher(self) -> AbstractContextManager[None]:
        """Make `predict` the frozen teacher inside a `with` block: adapters off, or a frozen copy."""
        ...

    def adapt(self, settings: "ModelSettings") -> None:
        """Give the student its LoRA, or all weights to train."""
        ...

    def trainable(self) -> dict[str, nn.Parameter]:
        """Return the trainable parameters by their names in saved files: LoRA matrices, or all weights."""
        ...

    def decode(self, x: Tensor) -> Tensor:
        """Decode clean samples `(rows, *shape)` to pictures `(rows, 3, height, width)` in [-1, 1]."""
        ...


class Examples(Protocol):
    """Clean samples with their conditions, ready for a network."""

    def __len__(self) -> int:
        """Return the number of samples."""
        ...

    def batch(self, rows: Tensor) -> tuple[Tensor, Condition]:
        """Return the samples `(rows, *shape)` at indices `(rows,)`, and their conditions, on the CPU."""
        ...

    def texts(self, rows: Tensor) -> list[str]:
        """Return the original captions or classes at indices `(rows,)`."""
        ...


def replace_rows(condition: Condition, other: Condition, rows: Tensor) -> Condition:
    """Return `condition` with the rows that the mask `rows` `(rows,)` marks taken from `other`."""
    shaped = {name: rows.view(-1, *(1,) * (value.dim() - 1)) for name, value in condition.items()}
    return {name: torch.where(shaped[name], other[name], value) for name, value in condition.items()}


def take_rows(condition: Condition, rows: Tensor | slice) -> Condition:
    """Select rows of every tensor by a mask, indices or a slice."""
    return {name: value[rows] for name, value in condition.items()}


def join_rows(*conditions: Condition) -> Condition:
    """Concatenate conditions that have the same tensors along their rows."""
    return {name: torch.cat([one[name] for one in conditions]) for name in conditions[0]}


def move(condition: Condition, device: torch.device) -> Condition:
    """Return the condition on another device."""
    return {name: value.to(device, non_blocking=True) for name, value in condition.items()}


def autocast(device: torch.device, precision: str) -> AbstractContextManager[None]:
    """Return an autocast context for `precision`; for float32 it does nothing."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, getattr(torch, precision))


@contextmanager
def swapped(parameters: dict[str, nn.Parameter], values: dict[str, Tensor]) -> Iterator[None]:
    """Let parameters hold other values, such as an average, inside a `with` block; nothing is copied."""
    own = {name: parameter.data for name, parameter in parameters.items()}
    try:
        for name, parameter in parameters.items():
            parameter.data = values[name]
        yield
    finally:
        for name, parameter in parameters.items():
            parameter.data = own[name]
