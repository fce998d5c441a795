"""Sampling: many small steps with a teacher, or a few large ones with a student."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mmtoolkit.distill.models.denoiser import (
    TIMESTEPS,
    Condition,
    Denoiser,
    Levels,
    join_rows,
    take_rows,
    to_x0_eps,
)
from mmtoolkit.distill.sampling.grids import ScheduleKind
from mmtoolkit.distill.sampling.scheduler import scheduler_of

MANY = 50
"""Number of steps of the teacher's reference samples."""


def guided(denoiser: Denoiser, x: Tensor, t: Tensor, condition: Condition, guidance: float) -> Tensor:
    """Return the prediction with classifier-free guidance (Ho and Salimans, arXiv 2207.12598).

    Rows with and without condition are predicted in one batch.

    Args:
        denoiser: a teacher or a student.
        x: noisy samples `(rows, *shape)`.
        t: timesteps `(rows,)`.
        condition: of the rows.
        guidance: g in none + g (conditioned - none); 1 and 0 need one pass per row, others two.

    Returns:
        Output `(rows, *shape)`, in the network's prediction type.
    """
    if guidance == 1:
        return denoiser.predict(x, t, condition)
    empty = denoiser.empty(condition)
    if guidance == 0:
        return denoiser.predict(x, t, empty)
    both = denoiser.predict(torch.cat([x, x]), torch.cat([t, t]), join_rows(condition, empty))
    with_condition, without = both.chunk(2)
    return without + guidance * (with_condition - without)


@torch.no_grad()
def teacher_samples(
    denoiser: Denoiser, condition: Condition, noise: Tensor, *, steps: int = MANY, guidance: float = 1.0
) -> Tensor:
    """Solve the probability-flow ODE from noise by DDIM (Song et al., arXiv 2010.02502, eq. 12).

    Args:
        denoiser: predicts in its present state; call this inside `denoiser.teacher()` for the teacher.
        condition: of the rows.
        noise: `(rows, *shape)`, standard normal.
        steps: number of equal steps over the 1000 timesteps; the last one ends at the clean sample.
        guidance: classifier-free guidance scale.

    Returns:
        Clean samples `(rows, *shape)`.
    """
    x, levels = noise, denoiser.levels
    times = [TIMESTEPS - 1 - step * TIMESTEPS // steps for step in range(steps)]
    for step, time in enumerate(times):
        t = torch.full((len(x),), time, device=x.device)
        alpha, sigma = levels.at(t, x)
        output = guided(denoiser, x, t, condition, guidance)
        clean, eps = to_x0_eps(output, x, alpha, sigma, denoiser.prediction)
        if step == steps - 1:
            return clean
        alpha, sigma = levels.at(torch.full_like(t, times[step + 1]), x)
        x = alpha * clean + sigma * eps
    return x


@torch.no_grad()
def student_samples(
    denoiser: Denoiser,
    condition: Condition,
    noise: Tensor,
    *,
    steps: int,
    training_steps: int,
    guidance: float = 1.0,
    eta: float = 0.0,
    schedule: ScheduleKind = "equidistant",
    clip_steps: int = 0,
    damped: bool = True,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Sample with a few large steps (gamma sampling, see `TDDScheduler`).

    Args:
        denoiser: a student.
        condition: of the rows.
        noise: `(rows, *shape)`, standard normal.
        steps: number of steps, each one network call, or two with guidance.
        training_steps: N of the grid that the student was trained on.
        guidance: in units of the student, see :func:`student_guidance`.
        eta: fraction of each jump that overshoots and is noised back, in [0, 1].
        schedule: placement of the steps.
        clip_steps: number of first steps with dynamic thresholding.
        damped: weaken guidance over long jumps, see :func:`damped_guidance`.
        generator: source of the noise for eta above 0.

    Returns:
        Clean samples `(rows, *shape)`.
    """
    scheduler = scheduler_of(denoiser.levels, denoiser.prediction, training_steps, schedule, clip_steps)
    scheduler.set_timesteps(steps)
    x = noise
    scales = step_guidance(denoiser.levels, scheduler.grid, guidance, damped=damped)
    for time, shown, scale in zip(scheduler.grid, scheduler.timesteps, scales, strict=True):
        t = torch.full((len(x),), time, device=x.device)
        output = guided(denoiser, x, t, condition, scale)
        x = scheduler.step(output, shown, x, eta=eta, generator=generator, return_dict=False)[0]
    return x


def student_guidance(teacher_units: float, guidance: float) -> float:
    """Convert a guidance scale of the teacher to the equivalent scale of its student.

    A student with decoupled guidance predicts eps(c) = eps_u + (1 + w)(eps_c - eps_u) and
    eps(none) = eps_u, where eps_c and eps_u are its teacher's. Its scale g acts as g (1 + w) of the teacher's
    (arXiv 2409.01347, eq. 13).

    Args:
        teacher_units: guidance scale for the teacher; 1 is no guidance.
        guidance: strength w that the student was trained with.
    """
    return teacher_units / (1 + guidance)


def damped_guidance(guidance: float, turn: float) -> float:
    """Return the guidance scale for a jump: 1 + (g - 1) cos(angle) for g above 1, otherwise g.

    Guidance extrapolates along the difference of two predictions. For a short jump this is the teacher's own
    guidance. For a long one the predictions are two nearly finished samples, and a point beyond them is not a
    sample. A jump at a right angle, as in sampling with one step, therefore has no guidance. A scale from 0
    to 1 interpolates between the two and needs no damping.

    Args:
        guidance: scale g, in units of the student.
        turn: cosine of the jump's angle, see :meth:`~mmtoolkit.distill.models.denoiser.Levels.turn`.
    """
    return 1 + (guidance - 1) * max(0.0, turn) if guidance > 1 else guidance


def step_guidance(levels: Levels, grid: Sequence[int], guidance: float, *, damped: bool) -> list[float]:
    """Return the guidance scale of each step, in units of the student.

    Args:
        levels: signal and noise of the timesteps.
        grid: timesteps of the steps, descending.
        guidance: scale without damping, in units of the student.
        damped: weaken it over long jumps, see :func:`damped_guidance`.
    """
    if not damped:
        return [guidance] * len(grid)
    jumps = zip(grid, [*grid[1:], None], strict=True)
    return [damped_guidance(guidance, levels.turn(t, target)) for t, target in jumps]


def in_parts(condition: Condition, noise: Tensor, rows: int = 256) -> list[tuple[Condition, Tensor]]:
    """Split conditions and noise into batches of at most `rows` rows."""
    starts = range(0, len(noise), rows)
    return [(take_rows(condition, slice(s, s + rows)), noise[s : s + rows]) for s in starts]


def to_bytes(pictures: Tensor) -> np.ndarray:
    """Convert pictures `(rows, 3, height, width)` in [-1, 1] to `(rows, height, width, 3)` in 0..255."""
    scaled = ((pictures.float().clamp(-1, 1) + 1) * 127.5).round().byte()
    return scaled.permute(0, 2, 3, 1).cpu().numpy()


def draw_grid(pictures: Tensor, columns: int, *, least: int = 96, gap: int = 2) -> Image.Image:
    """Arrange pictures `(rows, 3, height, width)` in [-1, 1] as one image.

    Args:
        pictures: to arrange, row by row.
        columns: number of columns.
        least: height in pixels to which smaller pictures are enlarged, by a whole factor.
        gap: width in pixels of the white lines between pictures.
    """
    arrays = to_bytes(pictures)
    factor = max(1, -(-least // arrays.shape[1]))
    arrays = arrays.repeat(factor, axis=1).repeat(factor, axis=2)
    count, height, width, _ = arrays.shape
    columns = min(columns, count)
    rows = -(-count // columns)
    canvas = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for index, picture in enumerate(arrays):
        top, left = (index // columns) * (height + gap), (index % columns) * (width + gap)
        canvas[top : top + height, left : left + width] = picture
    return Image.fromarray(canvas)


def save_grid(pictures: Tensor, columns: int, path: Path) -> Path:
    """Write a grid of pictures as PNG, creating its folder; arguments as of :func:`draw_grid`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draw_grid(pictures, columns).save(path)
    return path
