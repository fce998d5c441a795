import numpy as np
import pytest
import scipy.sparse as sp
import torch
from torch.nn import functional as F

from mmtoolkit.recommend.graphs.sparse import SparseRows, bag
from mmtoolkit.recommend.models.losses import add_half, bpr_loss, embedding_penalty, info_nce, mirror


def test_bpr_by_hand():
    users = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    positives, negatives = torch.tensor([[1.0, 5.0], [3.0, 1.0]]), torch.tensor([[0.0, 5.0], [3.0, 1.0]])
    expected = (np.log1p(np.exp(-1)) + np.log(2)) / 2
    assert bpr_loss(users, positives, negatives).item() == pytest.approx(expected)
    assert embedding_penalty(users, users).item() == pytest.approx(5.0)


@pytest.mark.parametrize("in_batch", [False, True])
@pytest.mark.parametrize("temperature", [0.2, 0.005])
@pytest.mark.parametrize("block", [40, 2**21])
def test_info_nce_and_its_gradients_agree_with_autograd(temperature, block, in_batch, monkeypatch):
    monkeypatch.setattr("mmtoolkit.recommend.models.losses.CONTRAST_BLOCK", block)
    chosen = torch.tensor([3, 0, 3, 7, 7, 7])
    first = torch.randn(9, 4, dtype=torch.float64, requires_grad=True)
    second = torch.randn(9, 4, dtype=torch.float64, requires_grad=True)
    q, k = F.normalize(first, dim=1), F.normalize(second, dim=1)
    logits = q[chosen] @ k.T / temperature
    if in_batch:
        logits = logits.index_fill(1, torch.tensor([1, 2, 4, 5, 6, 8]), -torch.inf)
    expected = F.cross_entropy(logits, chosen)
    wanted = torch.autograd.grad(expected, (first, second))
    loss = info_nce(first, second, chosen, temperature, in_batch=in_batch)
    found = torch.autograd.grad(3 * loss, (first, second))
    assert loss.item() == pytest.approx(expected.item())
    for a, b in zip(found, wanted, strict=True):
        assert torch.allclose(a, 3 * b, atol=1e-9)


def test_bags_multiply_both_ways_and_keep_empty_rows():
    matrix = sp.csr_array(np.array([[0, 2.0, 0], [0, 0, 0], [1, 0, 3]], np.float32))
    rows, full = SparseRows(matrix, torch.device("cpu")), torch.from_numpy(matrix.toarray())
    weight = torch.randn(3, 4, requires_grad=True)
    result = bag(weight, rows)
    result.square().sum().backward()
    assert torch.allclose(result, full @ weight)
    assert torch.allclose(weight.grad, 2 * full.T @ (full @ weight))
    assert rows.squared_norm().tolist() == [4, 0, 10]
    vector = torch.tensor([1.0, 2.0, 3.0])
    assert torch.equal(rows.times(vector), full @ vector)
    assert torch.equal(rows.transposed_times(vector), full.T @ vector)


@pytest.mark.parametrize("width", [5, 700])
def test_halves_of_a_symmetric_product_add_up_to_it(width):
    a = torch.randn(9, width, dtype=torch.float32)
    weighted, found = torch.rand(9, 1) * a, torch.zeros(width, width)
    for rows in (slice(4), slice(4, 9)):
        add_half(found, weighted[rows], a[rows])
    assert torch.allclose(mirror(found), weighted.T @ a, atol=1e-5)
