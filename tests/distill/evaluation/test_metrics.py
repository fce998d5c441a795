import numpy as np
import pytest
import scipy.linalg
import torch

from mmtoolkit.distill.evaluation.metrics import (
    frechet_distance,
    kernel_distance,
    precision_recall,
    trajectory_error,
)


def features(rows, width=6, seed=0, shift=0.0):
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(width, width, generator=generator, dtype=torch.float64)
    return torch.randn(rows, width, generator=generator, dtype=torch.float64) @ mix + shift


def test_frechet_distance_is_the_formula():
    a, b = features(400), features(300, seed=1, shift=0.5)
    cov_a, cov_b = (np.cov(x.numpy().T) for x in (a, b))
    root = scipy.linalg.sqrtm(cov_a @ cov_b).real
    want = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(cov_a + cov_b - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(float(want), rel=1e-8)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)


def test_frechet_distance_of_shifted_gaussians_is_the_shift():
    a = features(500)
    assert frechet_distance(a, a + torch.tensor([3.0, 4.0, 0, 0, 0, 0])) == pytest.approx(25)


def test_fewer_pictures_than_features_still_give_a_number():
    assert np.isfinite(frechet_distance(features(4), features(5, seed=2)))


def test_kernel_distance_is_the_double_sum():
    a, b = features(9), features(7, seed=1)

    def kernel(x, y):
        return float((x @ y / 6 + 1) ** 3)

    want = (
        np.mean([kernel(a[i], a[j]) for i in range(9) for j in range(9) if i != j])
        + np.mean([kernel(b[i], b[j]) for i in range(7) for j in range(7) if i != j])
        - 2 * np.mean([kernel(x, y) for x in a for y in b])
    )
    assert kernel_distance(a, b) == pytest.approx(want)


def test_precision_and_recall_by_hand():
    """Real points at 0, 1, 2, 3 (k = 1: radius 1); one drawn point among them, one far away."""
    real = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
    made = torch.tensor([[1.2], [9.0]])
    precision, recall = precision_recall(made, real, neighbours=1)
    assert precision == 0.5
    assert recall == 1.0  # the two drawn points are 7.8 apart, so their balls hold everything
    precision, recall = precision_recall(torch.tensor([[1.2], [1.3]]), real, neighbours=1)
    assert (precision, recall) == (1.0, 0.0)


def test_trajectory_error():
    assert trajectory_error(torch.zeros(2, 3), torch.full((2, 3), 2.0)) == 4
