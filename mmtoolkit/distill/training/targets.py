"""Target timesteps: how far the student is to jump, drawn for a whole batch at once.

LCM, PCM, TCD and TDD differ only here. Every rule is a table: row n lists the candidates for a start at grid
point n, so that a draw for a batch is one gather, on the device.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from mmtoolkit.distill.config import TargetSettings
from mmtoolkit.distill.sampling.grids import equidistant, training_grid

PUBLISHED_WINDOW = 260


@dataclass(frozen=True)
class Targets:
    """The draw of timesteps of one rule.

    Attributes:
        grid: starts t_{n+1}, ascending `(training_steps,)`.
        before: the grid point t_n below each start, 0 below the first.
        candidates: targets of each start, padded, `(training_steps, most)`.
        counts: number of candidates of each start.
        eta: largest stochastic offset.
        eta_zero: share of the draws without an offset.
    """

    grid: Tensor
    before: Tensor
    candidates: Tensor
    counts: Tensor
    eta: float
    eta_zero: float

    @classmethod
    def from_settings(cls, settings: TargetSettings, device: torch.device) -> "Targets":
        """Tabulate the rule that the settings name."""
        grid = training_grid(settings.training_steps)[::-1]
        before = [0, *grid[:-1]]
        lists = [RULES[settings.rule](start, t, settings) for start, t in zip(grid, before, strict=True)]
        counts = torch.tensor([len(one) for one in lists])
        padded = [list(one) + [0] * (int(counts.max()) - len(one)) for one in lists]
        offset = settings.eta if settings.rule == "tdd" else 0.0
        candidates = torch.tensor(padded, device=device)
        starts, ends = torch.tensor(grid, device=device), torch.tensor(before, device=device)
        return cls(starts, ends, candidates, counts.to(device), offset, settings.eta_zero if offset else 0.0)

    def draw_starts(self, rows: int, generator: torch.Generator) -> Tensor:
        """Draw grid positions n `(rows,)`, uniformly."""
        return torch.randint(len(self.grid), (rows,), generator=generator, device=self.grid.device)

    def draw(self, n: Tensor, generator: torch.Generator) -> Tensor:
        """Draw a target timestep for each start.

        Args:
            n: grid positions `(rows,)`.
            generator: of the draws, on the device of n.

        Returns:
            tau `(rows,)` in 0..999, at most the point below the start.
        """
        uniform = torch.rand(3, len(n), generator=generator, device=n.device)
        column = (uniform[0] * self.counts[n]).long()
        tau = self.candidates[n, column]
        if not self.eta:
            return tau
        eta = self.eta * uniform[2]
        if self.eta_zero:
            eta *= uniform[1] >= self.eta_zero
        return ((1 - eta) * tau).long()


def pool(settings: TargetSettings) -> list[int]:
    """Return the union of the schedules of K_min..K_max steps and 0, ascending (arXiv 2409.01347, eq. 6)."""
    steps = range(settings.steps_min, settings.steps_max + 1)
    return sorted({0}.union(*(equidistant(k, settings.training_steps) for k in steps)))


def _below(points: Sequence[int], t: int) -> int:
    """Return the largest point at or below t."""
    return max(point for point in points if point <= t)


def _lcm(start: int, t: int, settings: TargetSettings) -> list[int]:
    """Always the clean sample (Luo et al., arXiv 2310.04378)."""
    return [0]


def _pcm(start: int, t: int, settings: TargetSettings) -> list[int]:
    """The lower edge of the phase (Wang et al., arXiv 2405.18407, section 3.1)."""
    return [_below([0, *equidistant(settings.phases, settings.training_steps)], t)]


def _tcd(start: int, t: int, settings: TargetSettings) -> list[int]:
    """Anything at or below t_n (Zheng et al., arXiv 2402.19159, eq. 15)."""
    return list(range(t + 1))


def _tdd(start: int, t: int, settings: TargetSettings) -> list[int]:
    """Points that a sampler of K_min..K_max steps will really stop at; see `window`."""
    points = pool(settings)
    if settings.window == "schedule":
        steps = range(settings.steps_min, settings.steps_max + 1)
        return [_below([0, *equidistant(k, settings.training_steps)], t) for k in steps]
    if settings.window == "published":
        top = _below(points, t)
        return [point for point in points if top - PUBLISHED_WINDOW <= point <= top]
    edges = [*equidistant(settings.steps_min, settings.training_steps), 0]
    widest = max(a - b for a, b in pairwise(edges))
    return [point for point in points if start - widest <= point <= t]


RULES: dict[str, Callable[[int, int, TargetSettings], list[int]]] = {
    "lcm": _lcm,
    "pcm": _pcm,
    "tcd": _tcd,
    "tdd": _tdd,
}
