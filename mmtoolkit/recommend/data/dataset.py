"""The data set: interactions of three splits, and the modalities of the items."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

SPLITS = ("train", "validation", "test")

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class Modality:
    """One modality of the items: feature vectors, neighbour lists, or both.

    Attributes:
        features: `(items, width)` or None.
        neighbours: by list length k, ids of the k nearest items, `(items, k)`.
    """

    features: FloatArray | None
    neighbours: Mapping[int, IntArray]


@dataclass(frozen=True)
class RecommendData:
    """Interactions of the three splits and the modalities of the items.

    Attributes:
        name: name of the data set.
        train: `(users, items)`, 1 if the user has the item.
        validation: the same for the validation split.
        test: the same for the test split.
        modalities: by name.
        groups: known group of each item, `(items,)`, or None.
    """

    name: str
    train: sp.csr_array
    validation: sp.csr_array
    test: sp.csr_array
    modalities: Mapping[str, Modality]
    groups: IntArray | None = None

    @property
    def users(self) -> int:
        """Number of users."""
        return int(self.train.shape[0])

    @property
    def items(self) -> int:
        """Number of items."""
        return int(self.train.shape[1])

    def split(self, name: str) -> sp.csr_array:
        """Return the interactions of `train`, `validation` or `test`."""
        return {"train": self.train, "validation": self.validation, "test": self.test}[name]

    def fingerprint(self) -> str:
        """Hash the interactions; a checkpoint keeps the hash of the data that it was trained on."""
        digest = hashlib.blake2b(digest_size=8)
        for name in SPLITS:
            matrix = self.split(name)
            digest.update(np.asarray(matrix.shape, np.int64).tobytes())
            digest.update(matrix.indptr.astype(np.int64).tobytes())
            digest.update(matrix.indices.astype(np.int64).tobytes())
        return digest.hexdigest()


def interaction_matrix(table: IntArray, users: int, items: int) -> sp.csr_array:
    """Turn rows of user, item, ... into a binary matrix `(users, items)` with sorted indices."""
    ones = np.ones(len(table), np.float32)
    rows, columns = table[:, :2].T.astype(np.int32)  # half the memory, and products take a third less time
    matrix = sp.csr_array((ones, (rows, columns)), shape=(users, items))
    matrix.sum_duplicates()
    matrix.data[:] = 1
    return matrix
