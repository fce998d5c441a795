import pytest
import torch

from mmtoolkit.recommend.models.networks import drop_entries


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_dropout_drops_the_share_and_keeps_the_mean(share):
    x = torch.full((401, 503), 2.0, requires_grad=True)
    dropped = drop_entries(x, share)
    kept = dropped != 0
    assert float(kept.float().mean()) == pytest.approx(1 - share, abs=0.005)
    assert dropped[kept].unique().item() == pytest.approx(2 / (1 - share))
    rows, columns = kept.float().mean(dim=1), kept.float().mean(dim=0)
    assert (rows - (1 - share)).abs().max() < 0.11
    assert (columns - (1 - share)).abs().max() < 0.11
    neighbours = (kept[:, 1:] == kept[:, :-1]).float().mean()  # four entries share a draw
    assert float(neighbours) == pytest.approx((1 - share) ** 2 + share**2, abs=0.01)
    dropped.sum().backward()
    assert torch.equal(x.grad != 0, kept)
