"""What teaching and distilling share: draws that depend on the step alone, averages, processes, saving.

Every random number of a step comes from a generator seeded with (seed, step) and is drawn for the whole
batch by every process, which then takes its rows. So two processes compute what one computes, parts of a
batch compute what the whole computes, and a resumed run continues to the same bits.
"""

import functools
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mmtoolkit.core.errors import ConfigError, DivergenceError
from mmtoolkit.distill.models.denoiser import Denoiser

if TYPE_CHECKING:
    from accelerate import Accelerator


def step_generator(seed: int, step: int, device: torch.device) -> torch.Generator:
    """Return the generator of one step."""
    return torch.Generator(device).manual_seed((seed * 1_000_003 + step) % 2**63)


@functools.lru_cache(maxsize=2)
def _epoch_order(count: int, seed: int, epoch: int) -> Tensor:
    return torch.randperm(count, generator=step_generator(seed, -1 - epoch, torch.device("cpu")))


def batch_rows(count: int, batch_size: int, seed: int, step: int) -> Tensor:
    """Return the examples of a step `(batch_size,)`: an endless row of shuffled passes over all."""
    places = range(step * batch_size, (step + 1) * batch_size)
    epochs = sorted({place // count for place in places})
    joined = torch.cat([_epoch_order(count, seed, epoch) for epoch in epochs])
    return joined[places.start - epochs[0] * count :][:batch_size]


def parts_of(batch_size: int, parts: int, accelerator: "Accelerator") -> list[slice]:
    """Return this process's rows of a batch, one slice for each accumulated part.

    Raises:
        ConfigError: if the batch cannot be shared evenly.
    """
    processes = accelerator.num_processes
    if batch_size % (processes * parts):
        raise ConfigError(
            f"batch_size {batch_size}: must be a multiple of {processes} processes x {parts} parts"
        )
    size = batch_size // (processes * parts)
    first = accelerator.process_index * parts
    return [slice((first + part) * size, (first + part + 1) * size) for part in range(parts)]


class Average:
    """Exponential moving average of named parameters, in float32.

    The decay rises with the steps, min(decay, (1 + step) / (10 + step)), so that early weights are forgotten.
    Without decay it is the parameters themselves and takes no memory.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        """Start from the parameters as they are."""
        self.decay = decay
        self.values = {name: value.detach() for name, value in parameters.items()}
        if decay:
            self.values = {name: value.float().clone() for name, value in self.values.items()}

    @torch.no_grad()
    def update(self, parameters: Mapping[str, nn.Parameter], step: int) -> None:
        """Move towards the parameters after a step, counted from 1."""
        if not self.decay:
            return
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(  # one kernel for all
            list(self.values.values()), [parameters[name].detach().float() for name in self.values], weight
        )

    def load(self, values: Mapping[str, Tensor]) -> None:
        """Take over saved values."""
        for name, value in self.values.items():
            value.copy_(values[name])


@contextmanager
def unwrapped(denoiser: Denoiser, accelerator: "Accelerator") -> Iterator[None]:
    """Use a network without what shares it between processes, of which only one is drawing."""
    wrapped = denoiser.network
    denoiser.network = accelerator.unwrap_model(wrapped)
    try:
        yield
    finally:
        denoiser.network = wrapped


def rate_factor(step: int, steps: int, *, warmup: int, cooldown: int) -> float:
    """Return the factor on the learning rate: straight up over the first steps, straight down over the last.

    Args:
        step: counted from 0.
        steps: of the whole training.
        warmup: first steps, over which it rises from 0 to 1; 0 begins with 1.
        cooldown: last steps, over which it falls from 1 to 0; 0 ends with 1.
    """
    return min(1.0, (step + 1) / max(1, warmup), (steps - step) / max(1, cooldown))


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give all parameters a learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def check_finite(loss: float, step: int, setting: str) -> float:
    """Refuse to go on with a loss that is no number.

    Raises:
        DivergenceError: if it is not finite.
    """
    if not math.isfinite(loss):
        raise DivergenceError(
            f"step {step}: the loss is {loss}; lower {setting}; the last checkpoint is whole"
        )
    return loss


def take_step(
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    parameters: Iterable[nn.Parameter],
    limit: float,
    loss: float,
    step: int,
    setting: str,
) -> float:
    """Step down gradients of at most a norm of `limit` and return their norm before.

    Args:
        optimizer: of the parameters.
        scaler: that scaled the loss, enabled in float16.
        parameters: whose gradients are there.
        limit: largest norm.
        loss: of this step, over all processes.
        step: its number, from 1.
        setting: to lower where the loss is no number.

    Raises:
        DivergenceError: if it is not. Where only scaled gradients overflow, the step is left out and the
            scale halved.
    """
    check_finite(loss, step, setting)
    scaler.unscale_(optimizer)
    norm = float(nn.utils.clip_grad_norm_(list(parameters), limit))
    scaler.step(optimizer)
    scaler.update()
    return norm
