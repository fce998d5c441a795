"""Distances between two sets of pictures, computed from their features."""

import torch
from torch import Tensor


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Return the FID, |mean difference|^2 + tr(A + B - 2 (A B)^(1/2)) with covariances A and B.

    See Heusel et al., arXiv 1706.08500, eq. 6.

    Args:
        a: features `(n, width)`.
        b: features `(m, width)`.
    """
    a, b = a.double(), b.double()
    cov_a, cov_b = torch.cov(a.T), torch.cov(b.T)
    # eigh keeps the symmetric product real and stable, which a square root of A B is not:
    # tr (A B)^(1/2) = sum of the square roots of the eigenvalues of A^(1/2) B A^(1/2)
    values, vectors = torch.linalg.eigh(cov_a)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ cov_b @ root).clamp(min=0).sqrt().sum()
    difference = (a.mean(0) - b.mean(0)).square().sum()
    return float(difference + cov_a.trace() + cov_b.trace() - 2 * cross)


def kernel_distance(a: Tensor, b: Tensor) -> float:
    """Return the KID, the unbiased squared MMD with kernel (x.y / width + 1)^3 (arXiv 1801.01401, section 4).

    Args:
        a: features `(n, width)`, n at least 2.
        b: features `(m, width)`, m at least 2.
    """
    a, b = a.double(), b.double()
    width = a.shape[1]
    aa, bb, ab = ((x @ y.T / width + 1) ** 3 for x, y in ((a, a), (b, b), (a, b)))
    n, m = len(a), len(b)
    within_a = (aa.sum() - aa.trace()) / (n * (n - 1))
    within_b = (bb.sum() - bb.trace()) / (m * (m - 1))
    return float(within_a + within_b - 2 * ab.mean())


def precision_recall(made: Tensor, real: Tensor, neighbours: int = 3) -> tuple[float, float]:
    """Return precision and recall: the fraction of each set within the other's manifold.

    See Kynkäänniemi et al., arXiv 1904.06991, eq. 1 to 3.

    Args:
        made: features of generated pictures `(n, width)`.
        real: features of real pictures `(m, width)`.
        neighbours: k; a point's ball reaches to its k-th nearest neighbour in its own set.
    """
    across = torch.cdist(made.double(), real.double())

    def radii(points: Tensor) -> Tensor:
        own = torch.cdist(points.double(), points.double())
        # + 1, because each point is its own nearest neighbour
        return own.kthvalue(min(neighbours + 1, len(points)), dim=1).values

    precision = (across <= radii(real)[None, :]).any(1).double().mean()
    recall = (across <= radii(made)[:, None]).any(0).double().mean()
    return float(precision), float(recall)


def trajectory_error(student: Tensor, teacher: Tensor) -> float:
    """Return the mean squared distance to the teacher's many-step samples from the same noise, same shape."""
    return float((student.double() - teacher.double()).square().mean())
