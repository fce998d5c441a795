"""Grids of timesteps for training and sampling students, as lists of integers."""

from typing import Literal

ScheduleKind = Literal["equidistant", "non_equidistant"]


def training_grid(training_steps: int, timesteps: int = 1000) -> list[int]:
    """Return the grid for training students, descending: 999, 995, ..., 3 for 250 of 1000.

    Raises:
        ValueError: if `training_steps` is not in 1..timesteps.
    """
    if not 1 <= training_steps <= timesteps:
        raise ValueError(f"training_steps must lie in 1..{timesteps}, not {training_steps}")
    stride = timesteps // training_steps
    return [stride * step - 1 for step in range(training_steps, 0, -1)]


def equidistant(steps: int, training_steps: int, timesteps: int = 1000) -> list[int]:
    """Return tau^K: K = `steps` equidistant points of the training grid, descending (arXiv 2409.01347).

    Raises:
        ValueError: if there are more steps than grid points.
    """
    if not 1 <= steps <= training_steps:
        raise ValueError(f"steps must lie in 1..{training_steps} (the training steps), not {steps}")
    grid = training_grid(training_steps, timesteps)
    return [grid[step * training_steps // steps] for step in range(steps)]


def sampling_grid(
    steps: int, training_steps: int, kind: ScheduleKind = "equidistant", timesteps: int = 1000
) -> list[int]:
    """Return the timesteps of a sampler.

    Args:
        steps: number of network calls.
        training_steps: N of the training grid.
        kind: for 5 to 7 steps, `non_equidistant` takes the 4-step grid and inserts points of the 8-step grid,
            noisiest first; for other numbers of steps it equals `equidistant`.
        timesteps: number of timesteps of the diffusion.

    Returns:
        Timesteps, descending.

    Raises:
        ValueError: if there are more steps than grid points.
    """
    if kind == "equidistant" or not 4 < steps < 8:
        return equidistant(steps, training_steps, timesteps)
    base = equidistant(4, training_steps, timesteps)
    extra = [t for t in equidistant(8, training_steps, timesteps) if t not in base]
    return sorted(base + extra[: steps - 4], reverse=True)
