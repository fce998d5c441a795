import math

import pytest
import torch

from mmtoolkit.landmarks.models import losses


def test_wing_by_hand():
    """w = 10, e = 2: 10 ln(1 + 1 / 2) at 1, a line from 10 on."""
    difference = torch.tensor([[1.0, 1.0], [10.0, 10.0], [13.0, 13.0]])
    found = losses.wing(difference, 10, 2)
    curve = 10 * math.log(6)
    assert found.tolist() == pytest.approx([10 * math.log(1.5), curve, curve + 3], rel=1e-5)


def test_smooth_wing_joins_smoothly():
    for position in (0.5, 4.0):
        x = torch.tensor([position - 1e-4, position + 1e-4], dtype=torch.float64, requires_grad=True)
        values = losses.smooth_wing(x[:, None], 4.0, 0.5)
        (slopes,) = torch.autograd.grad(values.sum(), x)
        assert values[0].item() == pytest.approx(values[1].item(), abs=1e-2)
        if position == 0.5:
            assert slopes[0].item() == pytest.approx(slopes[1].item(), rel=1e-3)
    x = torch.zeros(1, 1, requires_grad=True)
    assert torch.autograd.grad(losses.smooth_wing(x, 4.0, 0.5).sum(), x)[0].item() == 0


def test_l1_by_hand():
    assert losses.l1(torch.tensor([[3.0, -1.0]])).item() == 2


def oracle_adaptive_wing(p, y, omega=14.0, theta=0.5, epsilon=1.0, alpha=2.1):
    a = omega / (1 + (theta / epsilon) ** (alpha - y))
    a *= (alpha - y) * (theta / epsilon) ** (alpha - y - 1) / epsilon
    c = theta * a - omega * math.log(1 + (theta / epsilon) ** (alpha - y))
    d = abs(y - p)
    return omega * math.log(1 + (d / epsilon) ** (alpha - y)) if d < theta else a * d - c


@pytest.mark.parametrize(("p", "y"), [(0.3, 0.0), (0.9, 0.0), (0.2, 0.9), (1.4, 0.5), (0.7, 1.0)])
def test_adaptive_wing_follows_the_paper(p, y):
    predicted, target = torch.full((1, 1, 1, 1), p), torch.full((1, 1, 1, 1), y)
    weight = 11 if y >= 0.2 else 1
    found = losses.adaptive_wing(predicted, target).item()
    assert found == pytest.approx(weight * oracle_adaptive_wing(p, y), rel=1e-4)


def test_adaptive_wing_has_a_gradient_at_the_target():
    x = torch.ones(1, 1, 3, 3, requires_grad=True)
    losses.adaptive_wing(x, torch.ones(1, 1, 3, 3)).sum().backward()
    assert torch.isfinite(x.grad).all()


def test_divergence_falls_to_zero_at_the_label():
    target = losses.gaussian_bins(torch.tensor([[12.3]]), 32, 1.5)
    assert target.sum().item() == pytest.approx(1)
    assert (target @ torch.arange(32.0)).item() == pytest.approx(12.3, abs=1e-3)
    assert losses.simcc_divergence(target.log(), target).item() == pytest.approx(0, abs=1e-5)
    assert losses.simcc_divergence(torch.zeros_like(target), target).item() > 1


def test_heatmaps_peak_at_their_positions():
    maps = losses.gaussian_heatmaps(torch.tensor([[[3.0, 5.0]]]), 8, 1.0)
    assert maps.shape == (1, 1, 8, 8)
    assert maps[0, 0].argmax().item() == 5 * 8 + 3
    assert maps.max().item() == 1


def test_a_point_without_weight_counts_for_nothing():
    values, weights = torch.tensor([[1.0, math.nan], [3.0, 5.0]]), torch.tensor([[1.0, 0.0], [1.0, 0.5]])
    assert losses.weighted_mean(values, weights).item() == pytest.approx((1 + 3 + 2.5) / 2.5)
    assert losses.weighted_mean(values, weights, 5.0).item() == pytest.approx(6.5 / 5)
