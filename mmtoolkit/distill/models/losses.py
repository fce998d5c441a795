"""The distillation loss, shared by LCM, PCM, TCD and TDD and by all model families."""

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
    """The random draws of a batch.

    Attributes:
        start: timesteps t_{n+1} `(rows,)`.
        before: timesteps t_n, one grid point below, `(rows,)`.
        target: timesteps tau at or below t_n, `(rows,)`.
        noise: standard normal, `(rows, *shape)`.
        dropped: mask of the rows without condition and guidance, `(rows,)`.
    """

    start: Tensor
    before: Tensor
    target: Tensor
    noise: Tensor
    dropped: Tensor

    def part(self, rows: slice) -> "Draw":
        """Return the draws of some rows."""
        return Draw(*(value[rows] for value in vars(self).values()))


def pseudo_huber(student: Tensor, target: Tensor, c: float) -> Tensor:
    """Return the mean of sqrt(d^2 + c^2) - c over all elements (Song and Dhariwal, arXiv 2310.14189).

    Args:
        student: prediction `(rows, *shape)`.
        target: of the same shape.
        c: differences well below it count squared, those above it absolutely.
    """
    # in float32: with half-precision inputs, c^2 = 1e-6 would vanish beside d^2
    difference = student.float() - target.float()
    return ((difference.square() + c**2).sqrt() - c).mean()


def jump(
    denoiser: Denoiser, output: Tensor, x: Tensor, t: Tensor, target: Tensor, *, boundary: bool = False
) -> Tensor:
    """Return the DDIM jump from x at timestep t to timestep `target` (arXiv 2010.02502, eq. 12).

    Args:
        denoiser: its noise levels and prediction type are used.
        output: output of the network at x, `(rows, *shape)`.
        x: noisy samples `(rows, *shape)`.
        t: their timesteps `(rows,)`.
        target: timesteps to jump to `(rows,)`.
        boundary: return the clean sample under LCM's scalings c_skip x + c_out x_0 instead, which keep
            x unchanged at t = 0 (arXiv 2310.04378, eq. 9, sigma_data 0.5, timesteps scaled by 10).

    Returns:
        Samples at `target`, `(rows, *shape)`.
    """
    alpha, sigma = denoiser.levels.at(t, x)
    clean, eps = to_x0_eps(output, x, alpha, sigma, denoiser.prediction)
    if boundary:
        scaled = 10.0 * t.view(alpha.shape)
        total = scaled.square() + 0.25
        # sigma_data^2 = 0.25; at t = 0, c_skip = 1 and c_out = 0, the paper's boundary condition
        return 0.25 / total * x + scaled / total.sqrt() * clean
    # the same x_0 and eps, mixed at the lower noise level: no noise is drawn
    alpha, sigma = denoiser.levels.at(target, x)
    return alpha * clean + sigma * eps


def teacher_output(
    denoiser: Denoiser, x: Tensor, t: Tensor, condition: Condition, dropped: Tensor, guidance: float
) -> Tensor:
    """Return the teacher's guided output eps_c + w (eps_c - eps_none), and eps_none for dropped rows.

    This is decoupled guidance (arXiv 2409.01347): dropped rows have no guidance. All rows go in
    one batch: a guided row takes two entries, a dropped row one.

    Args:
        denoiser: predicts as its teacher.
        x: noisy samples `(rows, *shape)`.
        t: timesteps `(rows,)`.
        condition: of the rows; already empty for dropped rows.
        dropped: mask `(rows,)`.
        guidance: strength w; an ordinary guidance scale is 1 + w.

    Returns:
        Output `(rows, *shape)`, in the network's prediction type.
    """
    with torch.no_grad(), denoiser.teacher():
        guided = ~dropped
        # the weights 1 + w and -w sum to 1, so guidance gives the same result in every prediction type
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
    """Return the distance of the student's sample at tau from the target (arXiv 2409.01347, algorithm 1).

    The student jumps from t_{n+1} to tau. The target takes a teacher step from t_{n+1} to t_n first, and the
    same network jumps from there to tau without gradient.

    Args:
        denoiser: student, and inside `teacher()` the teacher.
        clean: x_0 `(rows, *shape)`.
        condition: of the rows.
        draw: timesteps, noise and dropped rows.
        guidance: strength w of the teacher.
        huber: constant c of the pseudo-Huber loss.
        boundary: use LCM's boundary scalings, see :func:`jump`.
        target_weights: context in which the target is predicted, such as one that swaps in averaged weights.

    Returns:
        The pseudo-Huber loss, a scalar with gradient.
    """
    x = denoiser.levels.noised(clean, draw.noise, draw.start)
    # a dropped row is empty for student and teacher alike, so that the student learns both conditions
    condition = replace_rows(condition, denoiser.empty(condition), draw.dropped)
    with torch.no_grad():
        guided = teacher_output(denoiser, x, draw.start, condition, draw.dropped, guidance)
        # the teacher step is one grid point long, which is what keeps its DDIM error small
        nearer = jump(denoiser, guided, x, draw.start, draw.before)
        with target_weights or nullcontext():
            output = denoiser.predict(nearer, draw.before, condition)
        target = jump(denoiser, output, nearer, draw.before, draw.target, boundary=boundary)
    # last, so that its activations are not in memory during the other passes
    output = denoiser.predict(x, draw.start, condition)
    student = jump(denoiser, output, x, draw.start, draw.target, boundary=boundary)
    return pseudo_huber(student, target, huber)
