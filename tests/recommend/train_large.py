"""Train one epoch on 12,000 items, and print their number and the memory that it took, in bytes."""

import sys
import tempfile
from pathlib import Path

import numpy as np
import scipy.sparse as sp
import torch

from mmtoolkit.core.config import resolve, set_layers
from mmtoolkit.core.device import peak_memory
from mmtoolkit.core.run import RunDirectory
from mmtoolkit.recommend.config import RecommendSettings
from mmtoolkit.recommend.data.dataset import Modality, RecommendData
from mmtoolkit.recommend.train import train

USERS, ITEMS = 2_000, 12_000


def split(rng: np.random.Generator, each: int) -> sp.csr_array:
    rows = np.repeat(np.arange(USERS), each)
    columns = (ITEMS * rng.random(len(rows)) ** 2).astype(np.int64)
    matrix = sp.csr_array((np.ones(len(rows), np.float32), (rows, columns)), (USERS, ITEMS))
    matrix.sum_duplicates()
    matrix.data[:] = 1
    return matrix


def main() -> None:
    before = peak_memory(torch.device("cpu"))
    rng = np.random.default_rng(0)
    lists = np.concatenate([np.arange(ITEMS)[:, None], rng.integers(0, ITEMS, (ITEMS, 9))], axis=1)
    features = rng.normal(size=(ITEMS, 8)).astype(np.float32)
    modalities = {"image": Modality(None, {10: lists}), "text": Modality(features, {})}
    data = RecommendData("large", split(rng, 5), split(rng, 1), split(rng, 1), modalities)
    changes = ["diffusion.hidden=32", "diffusion.passes=1", "train.epochs=1", "model.embedding=16"]
    settings = resolve(RecommendSettings, set_layers([*changes, "device=cpu"])).settings
    with tempfile.TemporaryDirectory() as folder:
        train(settings, RunDirectory.new(Path(folder) / "run", "seed: 0\n"), data)
    assert "torch_geometric" not in sys.modules  # takes seconds and memory, and CPUs do not need it
    print(ITEMS, peak_memory(torch.device("cpu")) - before)


if __name__ == "__main__":
    main()
