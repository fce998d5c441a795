"""Exact values on distributions whose noise prediction is known."""

import functools
import math
from contextlib import contextmanager

import pytest
import torch
from mixture import Mixture
from torch import nn

from mmtoolkit.core.config import resolve, set_layers
from mmtoolkit.distill.config import DistillSettings
from mmtoolkit.distill.models.denoiser import Levels
from mmtoolkit.distill.models.losses import Draw, distillation_loss, jump, pseudo_huber, teacher_output
from mmtoolkit.distill.models.pixel import pixel_levels
from mmtoolkit.distill.sampling.generate import (
    damped_guidance,
    guided,
    step_guidance,
    student_guidance,
    student_samples,
    teacher_samples,
)
from mmtoolkit.distill.training.targets import Targets

CPU = torch.device("cpu")
W = 1.5


def mixture(spread=0.4, levels=None):
    means = torch.randn(3, 2, 5, generator=torch.Generator().manual_seed(3))
    return Mixture(means, spread, levels or pixel_levels())


class Points:
    """Each class is one point, and so is "no class": guided noise predictions are those of points again.

    The student's points train; the teacher's are `means`, the last of them without a class.
    """

    def __init__(self, means, levels, prediction):
        self.means, self.prediction = means.double(), prediction
        self.levels = Levels(levels.alpha.double(), levels.sigma.double(), levels.times)
        self.student = nn.Parameter(torch.zeros_like(self.means))
        self.points = self.student
        self.shape = (means.shape[1],)

    def predict(self, x, t, condition):
        clean = self.points[condition["label"]]
        alpha, sigma = self.levels.at(t, x)
        eps = (x - alpha * clean) / sigma
        return {"epsilon": eps, "v_prediction": alpha * eps - sigma * clean, "flow": eps - clean}[
            self.prediction
        ]

    def empty(self, condition):
        return {"label": torch.full_like(condition["label"], len(self.means) - 1)}

    @contextmanager
    def teacher(self):
        self.points = self.means
        yield
        self.points = self.student

    def fixed_point(self):
        none = self.means[-1]
        return torch.cat([self.means[:-1] + W * (self.means[:-1] - none), none[None]])


FAMILIES = [("epsilon", pixel_levels()), ("v_prediction", pixel_levels()), ("flow", Levels.flow(3.0))]
RULES = [("lcm", "schedule"), ("pcm", "schedule"), ("tcd", "schedule")] + [
    ("tdd", window) for window in ("paper", "published", "schedule")
]


@functools.cache
def targets_of(rule, window):
    changes = [
        f"targets.rule={rule}",
        f"targets.window={window}",
        "targets.training_steps=50",
        "targets.eta=0.3",
    ]
    return Targets.from_settings(resolve(DistillSettings, set_layers(changes)).settings.targets, CPU)


def draw_batch(rule, window, rows, seed, shape, drop=0.3):
    targets = targets_of(rule, window)
    generator = torch.Generator().manual_seed(seed)
    n = targets.draw_starts(rows, generator)
    return Draw(
        start=targets.grid[n],
        before=targets.before[n],
        target=targets.draw(n, generator),
        noise=torch.randn((rows, *shape), generator=generator, dtype=torch.float64),
        dropped=torch.rand(rows, generator=generator) < drop,
    )


def points_loss(points, rule, window, seed, rows=64):
    label = torch.arange(rows) % (len(points.means) - 1)
    drawn = draw_batch(rule, window, rows, seed, points.shape)
    return distillation_loss(points, points.means[label], {"label": label}, drawn, guidance=W, huber=1e-3)


@pytest.mark.parametrize(("rule", "window"), RULES)
@pytest.mark.parametrize(("prediction", "levels"), FAMILIES)
def test_the_guided_teacher_is_the_students_fixed_point(rule, window, prediction, levels):
    """eps_c + w (eps_c - eps_none), and eps_none without a class, have loss 0 for every rule and family."""
    means = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    points = Points(means, levels, prediction)
    points.student.data = points.fixed_point()
    assert points_loss(points, rule, window, seed=1).item() < 1e-9
    points.student.data = points.fixed_point() + 0.1
    assert points_loss(points, rule, window, seed=1).item() > 1e-5


@pytest.mark.parametrize(("rule", "window"), [RULES[0], RULES[2], RULES[-1]])
def test_training_reaches_the_fixed_point(rule, window):
    means = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    points = Points(means, Levels.flow(1.0), "flow")
    optimizer = torch.optim.Adam([points.student], 0.05)
    for seed in range(500):
        for group in optimizer.param_groups:
            group["lr"] = 0.05 * (1 - seed / 500)
        optimizer.zero_grad()
        points_loss(points, rule, window, seed).backward()
        optimizer.step()
    torch.testing.assert_close(points.student.data, points.fixed_point(), atol=0.03, rtol=0)


def test_closed_form_noise_is_the_score_of_the_density():
    """eps = -sigma grad log p_t(x), by automatic differentiation of the density."""
    model = mixture()
    t = torch.tensor([20, 300, 700, 990])
    x = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    for label in (torch.tensor([0, 1, 2, 0]), torch.full((4,), -1)):
        (score,) = torch.autograd.grad(model.log_density(x, t, {"label": label}).sum(), x)
        sigma = model.levels.at(t, x)[1]
        torch.testing.assert_close(model.predict(x, t, {"label": label}), -sigma * score)


def test_teacher_output_guides_and_spares_dropped_rows():
    model = mixture()
    rows = []
    predict = model.predict
    model.predict = lambda x, t, c: rows.append(len(x)) or predict(x, t, c)
    x, t = torch.randn(6, 5, dtype=torch.float64), torch.tensor([100, 300, 500, 700, 900, 999])
    label, dropped = torch.tensor([0, 1, 2, 0, 1, 2]), torch.tensor([0, 1, 0, 0, 1, 1]).bool()
    given = {"label": torch.where(dropped, -1, label)}
    found = teacher_output(model, x, t, given, dropped, W)
    assert rows == [6 + 3]
    conditioned, none = predict(x, t, {"label": label}), predict(x, t, {"label": torch.full((6,), -1)})
    want = torch.where(dropped[:, None], none, conditioned + W * (conditioned - none))
    torch.testing.assert_close(found, want)
    rows.clear()
    torch.testing.assert_close(teacher_output(model, x, t, given, dropped, 0.0), predict(x, t, given))
    teacher_output(model, x, t, model.empty(given), torch.ones(6).bool(), W)
    assert rows == [6, 6]


class Guided(Mixture):
    """The ideal decoupled student of a mixture: guided with a class, plain without one."""

    def predict(self, x, t, condition):
        none = super().predict(x, t, self.empty(condition))
        return none + (1 + W) * (super().predict(x, t, condition) - none)


@pytest.mark.parametrize("guidance", [1.0, 2.5, 5.0])
def test_guidance_converts_from_the_teachers_units(guidance):
    teacher = mixture()
    student = Guided(teacher.means, teacher.spread, teacher.levels)
    noise = torch.randn(64, 5, dtype=torch.float64)
    condition = {"label": torch.arange(64) % 3}
    scale = student_guidance(guidance, W)
    x, t = noise, torch.full((64,), 600)
    torch.testing.assert_close(
        guided(student, x, t, condition, scale), guided(teacher, x, t, condition, guidance)
    )
    drawn = [
        student_samples(model, condition, noise, steps=6, training_steps=250, guidance=g, damped=False)
        for model, g in ((student, scale), (teacher, guidance))
    ]
    torch.testing.assert_close(*drawn)


@pytest.mark.parametrize("levels", [pixel_levels(), Levels.flow(3.0)])
def test_the_turn_of_a_jump(levels):
    """Angles add up: from noise to clean is a right angle, so cos a of a first part is sin of the rest."""
    whole, first, rest = levels.turn(999, None), levels.turn(999, 500), levels.turn(500, None)
    assert levels.turn(500, 500) == pytest.approx(1)
    angles = [math.acos(turn) for turn in (whole, first, rest)]
    assert angles[0] == pytest.approx(angles[1] + angles[2], abs=1e-4)
    assert angles[0] == pytest.approx(math.pi / 2, abs=0.01)


def test_guidance_is_damped_over_long_jumps_only():
    assert damped_guidance(3.0, 0.25) == 1.5
    assert damped_guidance(0.5, 0.25) == 0.5
    levels = pixel_levels()
    assert step_guidance(levels, [999], 3.0, damped=True)[0] == pytest.approx(1, abs=0.02)
    assert step_guidance(levels, [999, 499], 3.0, damped=False) == [3.0, 3.0]
    many = step_guidance(levels, list(range(999, 0, -20)), 3.0, damped=True)
    assert min(many) > 2.9
    assert step_guidance(levels, [999, 499], 1.0, damped=True) == [1.0, 1.0]


def test_thresholding_keeps_a_first_jump_within_bounds():
    model, noise = mixture(), torch.randn(64, 5, dtype=torch.float64)
    condition = {"label": torch.arange(64) % 3}
    free, bounded = (
        student_samples(model, condition, noise, steps=1, training_steps=250, clip_steps=steps)
        for steps in (0, 1)
    )
    assert free.abs().max() > 1
    assert bounded.abs().max() <= 1


def test_many_steps_follow_the_exact_flow():
    """One Gaussian: x_0 = mean + spread (x_T - alpha_T mean) / sqrt(alpha_T^2 spread^2 + sigma_T^2)."""
    model = Mixture(torch.randn(1, 1, 5, generator=torch.Generator().manual_seed(1)), 0.4, pixel_levels())
    noise, condition = torch.randn(200, 5, dtype=torch.float64), {"label": torch.zeros(200).long()}
    alpha, sigma = model.levels.alpha[999], model.levels.sigma[999]
    scale = 0.4 / (alpha**2 * 0.16 + sigma**2).sqrt()
    want = model.means[0] + scale * (noise - alpha * model.means[0])
    errors = [
        (teacher_samples(model, condition, noise, steps=steps) - want).square().mean().item()
        for steps in (10, 50, 250)
    ]
    assert errors[0] > 4 * errors[1] > 16 * errors[2]
    assert errors[2] < 1e-4


def test_a_whole_batch_is_its_parts():
    model, rows = mixture(), 12
    label = torch.arange(rows) % 3
    clean = model.sample(label, torch.Generator().manual_seed(0))
    drawn = draw_batch("tdd", "schedule", rows, 5, model.shape)
    arguments = {"guidance": W, "huber": 1e-3}
    whole = distillation_loss(model, clean, {"label": label}, drawn, **arguments)
    parts = [
        distillation_loss(model, clean[s], {"label": label[s]}, drawn.part(s), **arguments)
        for s in (slice(0, 6), slice(6, 12))
    ]
    torch.testing.assert_close(whole, sum(parts) / 2)


def test_jumps_by_hand():
    """To where it stands a jump changes nothing; LCM's scalings return x at t = 0."""
    model = mixture()
    x, t = torch.randn(3, 5, dtype=torch.float64), torch.tensor([40, 500, 990])
    output = model.predict(x, t, {"label": torch.tensor([0, 1, 2])})
    torch.testing.assert_close(jump(model, output, x, t, t), x)
    zero = torch.zeros(3).long()
    torch.testing.assert_close(jump(model, output, x, zero, zero, boundary=True), x)
    alpha, sigma = model.levels.at(t, x)
    clean = (x - sigma * output) / alpha
    torch.testing.assert_close(
        jump(model, output, x, t, zero, boundary=True)[1:], clean[1:], atol=1e-3, rtol=1e-3
    )


def test_pseudo_huber_by_hand():
    found = pseudo_huber(torch.tensor([0.0, 3.0]), torch.tensor([0.0, -1.0]), 3.0)
    assert found.item() == pytest.approx((0 + 5 - 3) / 2)
