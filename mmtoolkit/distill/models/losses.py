"""The distillation loss: one step for LCM, PCM, TCD and TDD, on any kind of model."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from mmtoolkit.distill.models.denoiser import (
    Condition,
    Denoiser,
    join_rows,
    replace_rows,
    take_rows,
    to_x0_eps,
)


@dataclass(frozen=True)
class Draw:
    """The random choices of a batch.

    Attributes:
        start: timesteps t_{n+1} `(rows,)`.
        before: timesteps t_n, one grid point below.
        target: timesteps tau at or below t_n.
        noise: `(rows, *shape)`.
        dropped: rows that lose condition and guidance.
    """

    start: Tensor
    before: Tensor
    target: Tensor
    noise: Tensor
    dropped: Tensor

    def part(self, rows: slice) -> "Draw":
        """Take some rows."""
        return Draw(*(value[rows] for value in vars(self).values()))


def pseudo_huber(student: Tensor, target: Tensor, c: float) -> Tensor:
    """Return the mean of sqrt(d^2 + c^2) - c over all elements (Song and Dhariwal, arXiv 2310.14189)."""
    difference = student.float() - target.float()
    return ((difference.square() + c**2).sqrt() - c).mean()


def jump(
    denoiser: Denoiser, output: Tensor, x: Tensor, t: Tensor, target: Tensor, *, boundary: bool = False
) -> Tensor:
    """Go from x at timestep t straight to timestep `target`, as the network's output says.

    Args:
        denoiser: tells the levels and the kind of its output.
        output: of the network at x, `(rows, *shape)`.
        x: noisy samples.
        t: their timesteps `(rows,)`.
        target: timesteps to jump to `(rows,)`.
        boundary: return the clean sample under LCM's scalings c_skip x + c_out x_0 instead, which keep
            x as it is at t = 0 (arXiv 2310.04378, eq. 9, sigma_data 0.5, timesteps scaled by 10).
    """
    alpha, sigma = denoiser.levels.at(t, x)
    clean, eps = to_x0_eps(output, x, alpha, sigma, denoiser.prediction)
    if boundary:
        scaled = 10.0 * t.view(alpha.shape)
        total = scaled.square() + 0.25
        return 0.25 / total * x + scaled / total.sqrt() * clean
    alpha, sigma = denoiser.levels.at(target, x)
    return alpha * clean + sigma * eps


def teacher_output(
    denoiser: Denoiser, x: Tensor, t: Tensor, condition: Condition, dropped: Tensor, guidance: float
) -> Tensor:
    """Return eps_c + w (eps_c - eps_none), and eps_none alone for dropped rows.

    Rows with and without condition go in one batch; dropped rows take one place in it, not two.

    Args:
        denoiser: its teacher is used.
        x: noisy samples `(rows, *shape)`.
        t: timesteps `(rows,)`.
        condition: already empty where dropped.
        dropped: mask `(rows,)`.
        guidance: strength w.
    """
    with torch.no_grad(), denoiser.teacher():
        guided = ~dropped
        if not guidance or not bool(guided.any()):
            return denoiser.predict(x, t, condition)
        empty = denoiser.empty(take_rows(condition, guided))
        output = denoiser.predict(
            torch.cat([x, x[guided]]), torch.cat([t, t[guided]]), join_rows(condition, empty)
        )
        conditioned, without = output[: len(x)], output[len(x) :]
        result = conditioned.clone()
        result[guided] += guidance * (conditioned[guided] - without)
        return result


def distillation_loss(
    denoiser: Denoiser,
    clean: Tensor,
    condition: Condition,
    draw: Draw,
    *,
    guidance: float,
    huber: float,
    boundary: bool = False,
    target_weights: AbstractContextManager[None] | None = None,
) -> Tensor:
    """Compare the student's jump to tau with that of the target (arXiv 2409.01347, algorithm 1).

    Args:
        denoiser: student and teacher in one.
        clean: x_0 `(rows, *shape)`.
        condition: of the rows.
        draw: timesteps, noise and dropped rows.
        guidance: strength w of the teacher.
        huber: constant c of the pseudo-Huber loss.
        boundary: use LCM's boundary scalings, see :func:`jump`.
        target_weights: context in which the target network predicts, as with averaged weights.

    Returns:
        The loss, a scalar with gradient.
    """
    x = denoiser.levels.noised(clean, draw.noise, draw.start)
    condition = replace_rows(condition, denoiser.empty(condition), draw.dropped)
    with torch.no_grad():
        guided = teacher_output(denoiser, x, draw.start, condition, draw.dropped, guidance)
        nearer = jump(denoiser, guided, x, draw.start, draw.before)
        with target_weights or nullcontext():
            output = denoiser.predict(nearer, draw.before, condition)
        target = jump(denoiser, output, nearer, draw.before, draw.target, boundary=boundary)
    # last, so that its activations are not held while the others are computed
    output = denoiser.predict(x, draw.start, condition)
    student = jump(denoiser, output, x, draw.start, draw.target, boundary=boundary)
    return pseudo_huber(student, target, huber)
