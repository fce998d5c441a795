"""What teaching and distilling share: draws that depend on the step alone, rows of processes, the step.

Every random number of a step comes from a generator seeded with (seed, step) and is drawn for the whole
batch by every process, which then takes its rows. So two processes compute what one computes, parts of a
batch compute what the whole computes, and a resumed run continues to the same bits.
"""

import functools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mmtoolkit.core.errors import ConfigError
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
    """Return the examples of a step `(batch_size,)`: a part of endless shuffled passes."""
    positions = range(step * batch_size, (step + 1) * batch_size)
    epochs = sorted({position // count for position in positions})
    joined = torch.cat([_epoch_order(count, seed, epoch) for epoch in epochs])
    return joined[positions.start - epochs[0] * count :][:batch_size]


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


@contextmanager
def unwrapped(denoiser: Denoiser, accelerator: "Accelerator") -> Iterator[None]:
    """Use a network without the wrapper that joins processes, because only one of them draws samples."""
    wrapped = denoiser.network  # its forward pass would wait for the other processes
    denoiser.network = accelerator.unwrap_model(wrapped)
    try:
        yield
    finally:
        denoiser.network = wrapped


def learning_step(
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    parameters: Iterable[nn.Parameter],
    limit: float,
) -> float:
    """Clip the gradients to a norm of `limit`, step, and return the norm before.

    In float16 a step whose scaled gradients overflow is left out and the scale is halved.

    Args:
        optimizer: of the parameters.
        scaler: that scaled the loss, enabled in float16.
        parameters: with gradients.
        limit: largest norm.
    """
    scaler.unscale_(optimizer)
    norm = float(nn.utils.clip_grad_norm_(list(parameters), limit))
    scaler.step(optimizer)
    scaler.update()
    return norm
