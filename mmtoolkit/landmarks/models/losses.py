"""Losses of landmark localisation: pure functions with a weight for every point.

The losses of points take distances in any unit; :func:`compute_loss` passes hundredths of the crop's side.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from mmtoolkit.landmarks.config import LossSettings
from mmtoolkit.landmarks.models.networks import MARGIN, Output


def weighted_mean(values: Tensor, weights: Tensor, total: Tensor | float | None = None) -> Tensor:
    """Average `values` over the labelled points.

    Args:
        values: `(n, points)`.
        weights: `(n, points)`; 0 leaves a point out, even if its value is not finite.
        total: sum of weights to divide by; default: the sum of `weights`.
    """
    total = weights.sum().clamp_min(1e-6) if total is None else total
    return (torch.where(weights > 0, values, 0.0) * weights).sum() / total


def l1(difference: Tensor) -> Tensor:
    """Mean absolute difference of x and y, `(..., 2)` to `(...)`.

    On a soft-argmax this is the integral loss of Sun et al. (arXiv 1711.08229).
    """
    return difference.abs().mean(-1)


def wing(difference: Tensor, width: float, curvature: float) -> Tensor:
    """Wing loss of Feng et al. (arXiv 1711.06753, equation 5), mean of x and y: `(..., 2)` to `(...)`.

    w ln(1 + |d| / e) for |d| < w, else |d| - C with C = w - w ln(1 + w / e).
    """
    distance = difference.abs()
    constant = width - width * math.log1p(width / curvature)
    curved = width * torch.log1p(distance / curvature)
    return torch.where(distance < width, curved, distance - constant).mean(-1)


def smooth_wing(difference: Tensor, width: float, curvature: float) -> Tensor:
    """Wing loss that is quadratic up to the curvature e, so that its slope is continuous at zero.

    s d^2 for |d| < e with s = w / (4 e^2), then the wing's curve and line, shifted to meet it:
    value and slope agree at e.
    """
    distance = difference.abs()
    scale = width / (4 * curvature**2)
    shift = width * math.log(2) - scale * curvature**2
    constant = width - width * math.log1p(width / curvature) + shift
    curved = width * torch.log1p(distance / curvature) - shift
    far = torch.where(distance < width, curved, distance - constant)
    return torch.where(distance < curvature, scale * distance.square(), far).mean(-1)


WING_LOSSES: dict[str, Callable[[Tensor, float, float], Tensor]] = {
    "wing": wing,
    "smooth_wing": smooth_wing,
}


def point_loss(difference: Tensor, settings: LossSettings) -> Tensor:
    """Return the loss of each point, `(..., 2)` to `(...)`, as `settings.points` names it."""
    if settings.points == "l1":
        return l1(difference)
    return WING_LOSSES[settings.points](difference, settings.wing_width, settings.wing_curvature)


def adaptive_wing(
    predicted: Tensor,
    target: Tensor,
    omega: float = 14.0,
    theta: float = 0.5,
    epsilon: float = 1.0,
    alpha: float = 2.1,
    foreground: float = 10.0,
) -> Tensor:
    """Adaptive wing loss of Wang et al. (arXiv 1904.07399, equations 3 and 6) with weights on the foreground.

    Args:
        predicted: heatmaps `(n, points, height, width)`.
        target: heatmaps of the same shape, in [0, 1].
        omega: height of the curve.
        theta: distance at which the curve becomes a line.
        epsilon: curvature.
        alpha: exponent at target 0.
        foreground: extra weight of pixels at which the target, dilated by 3 x 3, is at least 0.2.

    Returns:
        Loss of each point, `(n, points)`.
    """
    distance = (predicted - target).abs()
    power = alpha - target
    ratio = (theta / epsilon) ** power
    slope = omega / (1 + ratio) * power * (theta / epsilon) ** (power - 1) / epsilon
    shift = theta * slope - omega * torch.log1p(ratio)
    # autograd multiplies 0 by an infinite slope at distance 0: keep it finite
    curved = omega * torch.log1p((distance.clamp_min(1e-6) / epsilon) ** power)
    loss = torch.where(distance < theta, curved, slope * distance - shift)
    mask = F.max_pool2d(target, 3, 1, 1) >= 0.2
    return (loss * (1 + foreground * mask)).mean((-2, -1))


def gaussian_bins(centres: Tensor, bins: int, sigma: float) -> Tensor:
    """Return Gaussians over bins, each of which sums to 1.

    Args:
        centres: `(...)` in bins; 0 is the centre of the first.
        bins: number of bins.
        sigma: standard deviation in bins.

    Returns:
        `(..., bins)`.
    """
    steps = torch.arange(bins, device=centres.device, dtype=centres.dtype)
    return torch.softmax(-0.5 * ((steps - centres[..., None]) / sigma) ** 2, dim=-1)


def simcc_divergence(logits: Tensor, target: Tensor) -> Tensor:
    """Kullback-Leibler divergence from a Gaussian label to a distribution over bins.

    SimCC, Li et al. (arXiv 2107.03332), with the smoothed labels of its section 3.3.

    Args:
        logits: `(n, points, bins)`.
        target: distributions of the same shape, each of which sums to 1.

    Returns:
        `(n, points)`.
    """
    entropy: Tensor = torch.special.entr(target).sum(-1)
    crossed: Tensor = -(target * F.log_softmax(logits, dim=-1)).sum(-1)
    return crossed - entropy


def gaussian_heatmaps(centres: Tensor, size: int, sigma: float) -> Tensor:
    """Draw a Gaussian of height 1 around each centre.

    Args:
        centres: `(n, points, 2)` in pixels of the heatmap.
        size: its side.
        sigma: standard deviation in pixels.

    Returns:
        `(n, points, size, size)`.
    """
    steps = torch.arange(size, device=centres.device, dtype=centres.dtype)
    spread = torch.exp(-0.5 * ((steps - centres[..., None]) / sigma) ** 2)
    heatmaps: Tensor = spread[..., 1, :, None] * spread[..., 0, None, :]
    return heatmaps


def compute_loss(
    output: Output, points: Tensor, weights: Tensor, total: float, settings: LossSettings
) -> Tensor:
    """Add up the losses of the coordinates and of the head's raw output.

    Args:
        output: output of the network.
        points: `(n, 106, 2)` true shares of the crop.
        weights: `(n, 106)`; points far outside the crop are left out too.
        total: divisor of the weighted sums.
        settings: kinds and weights of the losses.
    """
    inside = ((points > -MARGIN) & (points < 1 + MARGIN)).all(-1)
    weights = weights * inside
    values = point_loss(100 * (output.points - points), settings)
    loss = settings.points_weight * weighted_mean(values, weights, total)
    if output.raw is None:
        return loss
    if output.raw.ndim == 5:
        size = output.raw.shape[-1]
        target = gaussian_heatmaps(points * size - 0.5, size, sigma=1.0)
        for maps in output.raw:
            loss = loss + settings.heatmap_weight * weighted_mean(adaptive_wing(maps, target), weights, total)
        return loss
    bins = output.raw.shape[-1]
    unit = bins / (1 + 2 * MARGIN)
    target = gaussian_bins((points + MARGIN) * unit - 0.5, bins, settings.simcc_sigma * unit / 100)
    divergence = simcc_divergence(output.raw, target).sum(-1)
    return loss + settings.simcc_weight * weighted_mean(divergence, weights, total)
