"""Sparse rows times a wide dense matrix, and its transpose, as embedding bags.

On a CPU an embedding bag over 2,000 columns runs about six times as fast as torch's sparse product.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional as F

ADDED_ENTRIES = 2**21
"""Entries of a block of products, `(rows, width)`, that are added at once (8 MB)."""


@dataclass(frozen=True)
class _Bags:
    """A sparse matrix as the inputs of an embedding bag."""

    columns: Tensor
    offsets: Tensor
    values: Tensor

    @classmethod
    def of(cls, matrix: sp.csr_array, device: torch.device) -> Self:
        parts = (
            torch.from_numpy(matrix.indices.astype(np.int64)),
            torch.from_numpy(matrix.indptr.astype(np.int64)),
            torch.from_numpy(matrix.data.astype(np.float32)),
        )
        return cls(*(part.to(device) for part in parts))

    def part(self, start: int, stop: int) -> Self:
        offsets = self.offsets[start : stop + 1]
        entries = slice(int(offsets[0]), int(offsets[-1]))
        return replace(
            self,
            columns=self.columns[entries],
            offsets=offsets - offsets[0],
            values=self.values[entries],
        )

    def times(self, dense: Tensor) -> Tensor:
        return F.embedding_bag(
            self.columns,
            dense,
            self.offsets,
            mode="sum",
            per_sample_weights=self.values,
            include_last_offset=True,
        )


@dataclass(frozen=True)
class SparseRows:
    """Some rows of a sparse matrix, `(rows, columns)`, on a device; transposed on first use."""

    matrix: sp.csr_array
    device: torch.device

    @cached_property
    def forwards(self) -> _Bags:
        """The matrix itself."""
        return _Bags.of(self.matrix, self.device)

    @cached_property
    def backwards(self) -> _Bags:
        """Its transpose."""
        return _Bags.of(sp.csr_array(self.matrix.T), self.device)

    def times(self, vector: Tensor) -> Tensor:
        """Multiply with a vector, `(columns,)` to `(rows,)`."""
        return self.forwards.times(vector[:, None]).squeeze(1)

    def transposed_times(self, vector: Tensor) -> Tensor:
        """Multiply the transpose with a vector, `(rows,)` to `(columns,)`."""
        return self.backwards.times(vector[:, None]).squeeze(1)

    def bag(self, dense: Tensor, part: slice) -> Tensor:
        """Multiply a part of the rows with a matrix, `(columns, width)` to `(part, width)`."""
        return self.forwards.part(part.start, part.stop).times(dense)

    def add_transposed(self, result: Tensor, dense: Tensor, factor: float = 1) -> None:
        """Add the transpose times a matrix, `(rows, width)`, to `(columns, width)` in place, in blocks."""
        bags, step = self.backwards, max(1, ADDED_ENTRIES // dense.shape[1])
        for start in range(0, len(result), step):
            result[start : start + step].add_(bags.part(start, start + step).times(dense), alpha=factor)

    def squared_norm(self) -> Tensor:
        """Return the squared norm of each row, `(rows,)`."""
        bags = self.forwards
        return torch.segment_reduce(bags.values.square(), "sum", offsets=bags.offsets, initial=0.0)


def bag(dense: Tensor, rows: SparseRows) -> Tensor:
    """Multiply sparse rows with a dense matrix, `(columns, width)` to `(rows, width)`."""
    result: Tensor = _Bag.apply(dense, rows)
    return result


class _Bag(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, dense: Tensor, rows: SparseRows) -> Tensor:
        ctx.rows = rows  # type: ignore[attr-defined]
        return rows.forwards.times(dense)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.rows.backwards.times(grad.contiguous()), None  # type: ignore[attr-defined]
