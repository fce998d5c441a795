"""What every training loop calls: averages, rate plans, the finite check, the best epoch, stop signals.

The loops themselves stay in the engines, flat and visible.
"""

import math
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Self

import torch
from torch import Tensor

from mmtoolkit.core.errors import DivergenceError, StoppedError
from mmtoolkit.core.logging import logger


class Average:
    """Exponential moving average of named weights, in float32.

    The decay rises with the steps, min(decay, (1 + step) / (10 + step)), so that early weights are forgotten.
    Whole numbers (the counters of batch norms) are copied. A decay of 0 keeps the weights themselves and
    takes no memory.
    """

    def __init__(self, weights: Mapping[str, Tensor], decay: float) -> None:
        """Start from the current weights."""
        self.decay = decay
        self.values = {name: value.detach() for name, value in weights.items()}
        if decay:
            self.values = {name: _own_copy(value) for name, value in self.values.items()}

    @torch.no_grad()
    def update(self, weights: Mapping[str, Tensor], step: int) -> None:
        """Move towards the weights after a step, counted from 1."""
        if not self.decay:
            return
        floats = [name for name, value in self.values.items() if value.is_floating_point()]
        torch._foreach_lerp_(  # one kernel for all
            [self.values[name] for name in floats],
            [weights[name].detach().float() for name in floats],
            1 - min(self.decay, (1 + step) / (10 + step)),
        )
        for name in self.values.keys() - floats:
            self.values[name].copy_(weights[name])

    @torch.no_grad()
    def load(self, values: Mapping[str, Tensor]) -> None:
        """Restore saved values."""
        for name, value in self.values.items():
            value.copy_(values[name])


def _own_copy(value: Tensor) -> Tensor:
    return value.float().clone() if value.is_floating_point() else value.clone()


def linear_rate(step: int, steps: int, *, warmup: int, cooldown: int) -> float:
    """Return the factor on the learning rate: linear up over the first steps, linear down over the last.

    Args:
        step: counted from 0.
        steps: of the whole training.
        warmup: first steps, over which the factor rises from 0 to 1; 0 starts at 1.
        cooldown: last steps, over which it falls from 1 to 0; 0 ends at 1.
    """
    return min(1.0, (step + 1) / max(1, warmup), (steps - step) / max(1, cooldown))


def cosine_rate(step: int, steps: int, *, warmup: int) -> float:
    """Return the factor on the learning rate: linear up over the first steps, then half a cosine down to 0.

    Args:
        step: counted from 0.
        steps: of the whole training.
        warmup: first steps, over which the factor rises from 0 to 1; 0 starts at 1.
    """
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give all weights of an optimizer one learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def check_finite(loss: float, where: str, setting: str) -> float:
    """Return a loss that may be followed by a backward pass.

    Args:
        loss: over all processes, before the backward pass.
        where: epoch or step, for the message.
        setting: the setting to lower.

    Raises:
        DivergenceError: if it is infinite or NaN.
    """
    if not math.isfinite(loss):
        raise DivergenceError(f"{where}: the loss is {loss}; lower {setting}; the last checkpoint is whole")
    return loss


@dataclass
class Best:
    """The epoch with the best validation score so far.

    Attributes:
        higher: whether a higher score is better.
        epoch: its number, from 1; 0 while there is none.
        score: its score.
    """

    higher: bool
    epoch: int = 0
    score: float = math.nan

    def update(self, epoch: int, score: float) -> bool:
        """Take over a better score; returns whether it was one."""
        better = not self.epoch or (score > self.score if self.higher else score < self.score)
        if better:
            self.epoch, self.score = epoch, score
        return better

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {"best_epoch": self.epoch, "best_score": self.score}

    @classmethod
    def of(cls, state: Mapping[str, Any], *, higher: bool) -> Self:
        """Return the best epoch that a checkpoint kept."""
        return cls(higher, state["best_epoch"], state["best_score"])


@dataclass
class StopRequest:
    """Whether a signal has asked to stop; see :func:`stop_signals`."""

    received: signal.Signals | None = None

    def check(self, saved: str, run: Path | None = None) -> None:
        """End the run if a signal asked for it; call it after a checkpoint was written.

        Args:
            saved: what the checkpoint holds, as `step 300`.
            run: folder of the run, for the message.

        Raises:
            StoppedError: with the exit code of the signal.
        """
        if self.received:
            remedy = f"; continue with `resume` {run}" if run else ""
            raise StoppedError(f"stopped by {self.received.name} after {saved}{remedy}", 128 + self.received)

    def __bool__(self) -> bool:
        """Whether to stop."""
        return self.received is not None


@contextmanager
def stop_signals() -> Iterator[StopRequest]:
    """Turn the first SIGTERM or Ctrl-C into a request that the loop reads; a second one stops at once.

    So the step under way ends and a checkpoint is written. Outside the main thread nothing changes.
    """
    request = StopRequest()
    previous: dict[signal.Signals, Any] = {}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def ask(number: int, _frame: FrameType | None) -> None:
        request.received = signal.Signals(number)
        logger.warning("%s: stopping at the next checkpoint; again to stop at once", request.received.name)
        restore()

    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            previous[number] = signal.signal(number, ask)
    except ValueError:  # not the main thread
        pass
    try:
        yield request
    finally:
        restore()
