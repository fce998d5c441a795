"""Time the choice of target timesteps for a batch of 64: one draw for all rows against loops over them.

    python benchmarks/distill_targets.py [--record]

Both loops do for every row what the rule says: collect the candidates of its window from the pool, choose
one, lower it by its own offset. One does so with tensors, as training scripts do; the other, for comparison,
with plain Python numbers, which needs the CPU. Seconds are those that the processor spent on this process.
"""

import random
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from statistics import fmean
from typing import Any

import torch
from bench import Figures, describe_machine, make_parser, timed
from torch import Tensor

from mmtoolkit.distill.config import TargetSettings
from mmtoolkit.distill.sampling.grids import equidistant
from mmtoolkit.distill.training.targets import PUBLISHED_WINDOW, Targets, pool

ROWS = 64


def bounds(start: Any, settings: TargetSettings) -> tuple[Any, Any]:
    """Return the window of a start; works for numbers and tensors."""
    before = start - 1000 // settings.training_steps
    return start - WIDEST, before


def tensor_loop(starts: Tensor, settings: TargetSettings) -> Tensor:
    points, chosen = torch.tensor(POOL, device=starts.device), []
    for start in starts:
        low, before = bounds(start, settings)
        before = before.clamp(min=0)
        if settings.window == "published":
            before = points[points <= before].max()
            low = before - PUBLISHED_WINDOW
        candidates = points[(points >= low) & (points <= before)]
        picked = candidates[torch.randint(len(candidates), (1,))]
        chosen.append(((1 - settings.eta * torch.rand(1)) * picked).floor().long())
    return torch.cat(chosen)


def number_loop(starts: list[int], settings: TargetSettings) -> Tensor:
    chosen = []
    for start in starts:
        low, before = bounds(start, settings)
        before = max(0, before)
        if settings.window == "published":
            before = max(p for p in POOL if p <= before)
            low = before - PUBLISHED_WINDOW
        picked = random.choice([p for p in POOL if low <= p <= before])
        chosen.append(int((1 - random.uniform(0, settings.eta)) * picked))
    return torch.tensor(chosen)


def microseconds(call: Callable[[], Tensor], repeats: int) -> float:
    return 1e6 * timed(call, repeats, warm_up=1, pick=fmean)[0]


POOL = pool(TargetSettings())
WIDEST = max(a - b for a, b in pairwise([*equidistant(4, 250), 0]))


def main() -> None:
    figures = Figures(make_parser(__doc__).parse_args().record)
    torch.set_num_threads(1)
    print(describe_machine("1 thread", f"batch of {ROWS}"))
    for window in ("published", "paper"):
        settings = TargetSettings(window=window, eta=0.3)
        targets = Targets.from_settings(settings, torch.device("cpu"))
        generator = torch.Generator().manual_seed(0)
        n = targets.draw_starts(ROWS, generator)
        starts = targets.grid[n]
        numbers = starts.tolist()
        tensors = microseconds(partial(tensor_loop, starts, settings), 30)
        plain = microseconds(partial(number_loop, numbers, settings), 300)
        fast = microseconds(partial(targets.draw, n, generator), 3000)
        print(f"{window}: one draw {fast:.1f} us")
        print(f"  loop with tensors {tensors:7.1f} us, {tensors / fast:.0f} times as long")
        print(f"  loop with numbers {plain:7.1f} us, {plain / fast:.0f} times as long")
        figures.add(f"distill.targets.{window}.tensors", tensors / fast)
        figures.add(f"distill.targets.{window}.numbers", plain / fast)


if __name__ == "__main__":
    main()
