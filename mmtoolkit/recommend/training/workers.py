"""The processes that train one model together: each computes some rows of a batch.

Every process holds all weights and draws the same random numbers. Losses and gradients are summed over the
processes, so that they compute the same as one process, up to the order of the sums.
"""

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

import torch
from torch import Tensor

from mmtoolkit.core.device import make_accelerator

if TYPE_CHECKING:
    from accelerate import Accelerator


Value = TypeVar("Value")


@dataclass(frozen=True)
class Workers:
    """The processes that `accelerate launch` or `torchrun` started, and this one's rank.

    Attributes:
        rank: number of this process; process 0 writes the run.
        count: number of processes.
    """

    rank: int = 0
    count: int = 1
    _accelerator: "Accelerator | None" = None

    @classmethod
    def join(cls, device: torch.device) -> tuple[Self, torch.device]:
        """Connect to the other processes, if any, and return the group and this process's device."""
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls(), device
        accelerator = make_accelerator(device)
        group = cls(accelerator.process_index, accelerator.num_processes, accelerator)
        return group, accelerator.device

    @property
    def is_main(self) -> bool:
        """Whether this process writes files."""
        return self.rank == 0

    def share(self, rows: Tensor) -> Tensor:
        """Return this process's rows of a batch; a batch smaller than the group repeats its first."""
        if self.count == 1:
            return rows
        own = rows.tensor_split(self.count)[self.rank]
        return own if len(own) else rows[:1]

    def part(self, loss: Tensor, batch: int) -> Tensor:
        """Weigh the mean loss over this process's rows so that all parts add up to the batch's mean."""
        if self.count == 1:
            return loss
        own = batch // self.count + (self.rank < batch % self.count)
        return loss * (own / batch)

    def total(self, value: float) -> float:
        """Sum a number over the processes."""
        if self._accelerator is None:
            return value
        number = torch.tensor(value, dtype=torch.float64, device=self._accelerator.device)
        return float(self._accelerator.reduce(number, "sum"))

    def add_gradients(self, optimizer: torch.optim.Optimizer) -> None:
        """Sum the gradients of an optimizer's weights over the processes."""
        if self._accelerator is None:
            return
        for group in optimizer.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    weight.grad = self._accelerator.reduce(weight.grad, "sum")

    def agree(self, value: Value | None) -> Value:
        """Return the first process's value in every process; the others may have None."""
        values: list[Any] = [value]
        if self._accelerator is not None:
            from accelerate.utils import broadcast_object_list

            broadcast_object_list(values)
        return cast("Value", values[0])


ALONE = Workers()
"""One process that trains on its own."""
