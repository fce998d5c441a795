"""Pictures of a small set, all in memory, as training takes them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mmtoolkit.core.errors import DataError
from mmtoolkit.distill.data.read import Pictures


@dataclass(frozen=True)
class PixelExamples:
    """Pictures of a small set, all in memory.

    Attributes:
        images: `(n, 3, side, side)` in 0..255.
        tokens: of the captions or classes, `(n, length)`; 0 is padding.
        flip: have every picture twice, the second time mirrored.
        words: captions or classes as they were written.
    """

    images: Tensor
    tokens: Tensor
    flip: bool = False
    words: Sequence[str] = ()

    def __len__(self) -> int:
        """Count the pictures."""
        return len(self.images) * (2 if self.flip else 1)

    def batch(self, rows: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return pictures `(rows, 3, side, side)` in [-1, 1] and their tokens."""
        own = rows % len(self.images)
        clean = self.images[own].float() / 127.5 - 1
        mirrored = (rows >= len(self.images)).view(-1, 1, 1, 1)
        return torch.where(mirrored, clean.flip(3), clean), {"tokens": self.tokens[own]}

    def texts(self, rows: Tensor) -> list[str]:
        """Return the captions or classes of some pictures."""
        return [self.words[row] for row in (rows % len(self.images)).tolist()]


def load_images(pictures: Pictures, size: int) -> Tensor:
    """Read every picture into memory, `(n, 3, size, size)` in 0..255.

    Raises:
        DataError: if a picture cannot be read, or all have another size that the set itself states.
    """
    if pictures.size and pictures.size != size:
        side = f"{pictures.size} x {pictures.size}"
        raise DataError(f"{pictures.name}: pictures are {side}, the model needs {size} x {size}")
    images = np.empty((len(pictures), size, size, 3), np.uint8)
    for index in range(len(pictures)):
        images[index] = pictures.pixels(index, size)
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
