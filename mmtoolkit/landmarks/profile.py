"""The function behind `mmtk landmarks profile`: what a network costs."""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from mmtoolkit.landmarks.load import Landmarker, load
from mmtoolkit.landmarks.models.networks import count_operations


@dataclass(frozen=True)
class Profile:
    """The cost of a network.

    Attributes:
        parameters: number of learnt parameters.
        multiplications: multiply-adds per face; floating point operations are twice as many.
        bytes: size of its weights in half precision, as they ship.
        milliseconds: median time for one face on one thread of the CPU.
        limits: whether the limits of the second and the third challenge hold.
    """

    parameters: int
    multiplications: int
    bytes: int
    milliseconds: float
    limits: dict[str, bool]


def profile(model: Landmarker | Path | None = None, repeats: int = 50) -> Profile:
    """Measure the size and the speed of a network.

    Args:
        model: network on the CPU, run, checkpoint or exported file; None takes the weights that ship.
        repeats: runs of which the time is the median.
    """
    landmarker = model if isinstance(model, Landmarker) else load(model, "cpu")
    parameters = sum(p.numel() for p in landmarker.network.parameters())
    operations = count_operations(landmarker.network, landmarker.settings.size)
    limits = {
        "second challenge (1 GFLOP, 20 MB)": 2 * operations <= 1e9 and 2 * parameters <= 20e6,
        "third challenge (100 MFLOPs, 2 MB)": 2 * operations <= 1e8 and 2 * parameters <= 2e6,
    }
    return Profile(parameters, operations, 2 * parameters, milliseconds_per_face(landmarker, repeats), limits)


def milliseconds_per_face(landmarker: Landmarker, repeats: int = 50, batch: int = 1) -> float:
    """Return the median milliseconds per face on one thread, from the bytes of the crop to the points.

    This is CPU time, so that other work on the machine does not count.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    size = landmarker.settings.size
    crops = np.random.default_rng(0).integers(0, 255, (batch, size, size, 3)).astype(np.uint8)
    seconds = []
    for _ in range(repeats + 5):
        start = time.process_time()
        landmarker.locate(crops)
        seconds.append(time.process_time() - start)
    torch.set_num_threads(threads)
    return 1e3 * float(np.median(seconds[5:])) / batch
