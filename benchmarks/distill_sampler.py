"""Compare TDDScheduler with what the authors' sampler printed.

    MMTK_TDD_REFERENCE=tdd_sampler.json python benchmarks/distill_sampler.py [--record]

The file holds, for each setting, the timesteps and the sample after every step on a fixed noise function.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from bench import Figures, make_parser
from torch import Tensor

from mmtoolkit.distill.sampling import scheduler as module
from mmtoolkit.distill.sampling.scheduler import TDDScheduler

NOISE = torch.tensor([0.3, -0.7, 1.1, -0.2], dtype=torch.float64)


def draws() -> Iterator[Tensor]:
    sign = 1
    while True:
        yield sign * NOISE
        sign = -sign


def largest_difference(case: dict[str, Any], start: list[float], steps: int, **config: Any) -> float:
    scheduler = TDDScheduler(**config)
    scheduler.set_timesteps(steps)
    assert scheduler.timesteps.tolist() == case["timesteps"]
    x, found, noise = torch.tensor(start, dtype=torch.float64), [], draws()
    with mock.patch.object(module, "randn_tensor", side_effect=noise):
        for t in scheduler.timesteps:
            output = 0.9 * torch.tanh(0.7 * x + 0.001 * t) + 0.1 * torch.sin(3 * x)
            x = scheduler.step(output, t, x, eta=case.get("eta", 0.0)).prev_sample
            found.append(x)
    return float((torch.stack(found) - torch.tensor(case["samples"], dtype=torch.float64)).abs().max())


def main() -> None:
    figures = Figures(make_parser(__doc__).parse_args().record)
    path = os.environ.get("MMTK_TDD_REFERENCE")
    if path is None:
        print("MMTK_TDD_REFERENCE names no file: nothing compared with the authors' sampler")
        return
    stored = json.loads(Path(path).read_text(encoding="utf-8"))
    betas, start = stored["betas"], stored["x_T"]
    equal = [
        largest_difference(c, start, c["steps"], training_steps=c["training_steps"], **betas)
        for c in stored["cases"]
    ]
    uneven = [
        largest_difference(c, start, int(steps), schedule="non_equidistant", **betas)
        for steps, c in stored["non_equidistant_250"].items()
    ]
    print(f"{len(equal)} settings: largest difference {max(equal):.1e}")
    print(f"{len(uneven)} non-equidistant ones: {max(uneven):.1e}")
    figures.add("distill.sampler.equidistant", max(equal))
    figures.add("distill.sampler.uneven", max(uneven))


if __name__ == "__main__":
    main()
