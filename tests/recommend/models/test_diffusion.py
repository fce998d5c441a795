"""The linear-memory form against a dense oracle written from the equations, in float64."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from torch.nn import functional as F

from mmtoolkit.recommend.config import DiffusionSettings
from mmtoolkit.recommend.graphs.graph import weighted_list_graph
from mmtoolkit.recommend.graphs.sparse import SparseRows
from mmtoolkit.recommend.models.diffusion import (
    Reencoding,
    denoise_rows,
    denoised_lists,
    mixed_noise,
    training_loss,
)
from mmtoolkit.recommend.models.networks import CDNet, sinusoidal_embedding
from mmtoolkit.recommend.models.schedule import Schedule
from mmtoolkit.recommend.models.search import largest_entries, neighbourhood
from mmtoolkit.recommend.training.workers import ALONE, Workers

ITEMS, HIDDEN = 90, 12
CPU = torch.device("cpu")
SETTINGS = DiffusionSettings(hidden=HIDDEN, dropout=0, noise_vectors=7)


def graphs():
    semantic = sp.random_array((ITEMS, ITEMS), density=0.08, format="csr", rng=1, dtype=np.float32)
    behaviour = sp.random_array((ITEMS, ITEMS), density=0.03, format="csr", rng=2, dtype=np.float32)
    behaviour = sp.csr_array(behaviour + sp.eye_array(ITEMS, dtype=np.float32))
    return sp.csr_array(semantic + sp.eye_array(ITEMS, dtype=np.float32)), behaviour


def small_net() -> CDNet:
    net = CDNet(ITEMS, SETTINGS, torch.float32)
    with torch.no_grad():
        net.decoder_bias.normal_()
        net.encoder_bias.normal_()
    return net


def dense(matrix: sp.csr_array) -> torch.Tensor:
    return torch.from_numpy(matrix.toarray()).double()


class Oracle:
    """CD-Net with ordinary dense rows (steps 3 to 5 of the method, word by word)."""

    def __init__(self, net: CDNet):
        self.p = {name: p.detach().double().requires_grad_() for name, p in net.named_parameters()}
        self.width = SETTINGS.time_embedding

    def encode(self, rows):
        return F.normalize(rows @ self.p["encoder"] + self.p["encoder_bias"], dim=1)

    def predict(self, noisy, condition, steps, keep):
        time = sinusoidal_embedding(steps, self.width).double()
        time = F.linear(time, self.p["time.0.weight"], self.p["time.0.bias"])
        time = F.linear(F.gelu(time), self.p["time.2.weight"], self.p["time.2.bias"])
        parts = [self.encode(noisy), keep[:, None] * self.encode(condition), time.expand(len(noisy), -1)]
        mixed = F.linear(torch.cat(parts, dim=1), self.p["mix.weight"], self.p["mix.bias"])
        return mixed @ self.p["decoder"].T + self.p["decoder_bias"]


def schedule_by_hand(steps=5):
    variance = 0.01 * np.linspace(1e-4, 2e-2, steps)
    abar = 1 - variance
    before = np.concatenate([[1.0], abar[:-1]])
    beta = np.minimum(1 - abar / before, 0.999)
    snr = abar / (1 - abar)
    weight = np.concatenate([[1.0], snr[:-1] - snr[1:]])
    clean = beta * np.sqrt(before) / (1 - abar)
    noisy = (1 - before) * np.sqrt(1 - beta) / (1 - abar)
    return abar, weight, clean, noisy


def test_schedule_is_the_linear_variance_one():
    schedule = Schedule.from_settings(SETTINGS, CPU)
    abar, weight, clean, noisy = schedule_by_hand()
    assert schedule.signal.numpy() == pytest.approx(np.sqrt(abar))
    assert schedule.noise.numpy() == pytest.approx(np.sqrt(1 - abar), rel=1e-5)
    assert schedule.loss_weight.numpy() == pytest.approx(weight, rel=1e-5)
    assert schedule.posterior_clean.numpy() == pytest.approx(clean, rel=1e-5)
    assert schedule.posterior_noisy.numpy() == pytest.approx(noisy, rel=1e-5, abs=1e-9)
    assert (float(schedule.posterior_clean[0]), float(schedule.posterior_noisy[0])) == (1, 0)


@pytest.mark.parametrize("per", ["batch", "row"])
@pytest.mark.parametrize("drop", [0.0, 0.6, 0.999])
def test_loss_and_gradients_agree_with_dense_rows(per, drop):
    settings = SETTINGS.model_copy(update={"condition_dropout_per": per, "condition_dropout": drop})
    net, schedule, (semantic, behaviour) = small_net(), Schedule.from_settings(SETTINGS, CPU), graphs()
    chosen = np.arange(5, 45)
    batch = len(chosen)
    torch.manual_seed(11)
    loss = training_loss(net, schedule, semantic, behaviour, chosen, settings)
    loss.backward()

    torch.manual_seed(11)  # the same draws in the same order
    steps = torch.randint(5, (batch,))
    keep = (torch.rand(batch if per == "row" else 1) >= drop).double().expand(batch)
    vectors = torch.randn(settings.noise_vectors, ITEMS).double()
    mixtures = []
    for seed in torch.randint(2**62, (8,)).tolist():
        torch.manual_seed(seed)
        mixtures.append(F.normalize(torch.randn(batch // 8, settings.noise_vectors).double(), dim=1))
    mixture = torch.cat(mixtures)
    oracle, clean = Oracle(net), dense(semantic[chosen])
    abar, weight, _, _ = schedule_by_hand()
    a = torch.from_numpy(abar)[steps, None]
    noisy = a.sqrt() * clean + (1 - a).sqrt() * (mixture @ vectors)
    predicted = oracle.predict(noisy, dense(behaviour[chosen]), steps, keep)
    w = torch.from_numpy(weight)[steps]
    expected = (w * (clean - predicted).square().mean(dim=1)).mean()
    expected.backward()

    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for name, parameter in net.named_parameters():
        wanted = oracle.p[name].grad
        error = (parameter.grad.double() - wanted).norm() / wanted.norm()
        assert error < 1e-5, name


@pytest.mark.parametrize("steps", [1, 2, 3, 5])
def test_denoised_rows_and_their_lists_agree_with_dense_rows(steps):
    net, (semantic, behaviour) = small_net().eval(), graphs()
    schedule = Schedule.from_settings(SETTINGS.model_copy(update={"steps": steps}), CPU)
    oracle, x, condition = Oracle(net), dense(semantic), dense(behaviour)
    _, _, clean, old = schedule_by_hand(steps)
    ones, omega = torch.ones(ITEMS, dtype=torch.float64), 4.0
    with torch.no_grad():
        for t in range(steps - 1, -1, -1):
            step = torch.tensor([t])
            given = oracle.predict(x, condition, step, ones)
            none = oracle.predict(x, condition, step, 0 * ones)
            x = clean[t] * ((1 + omega) * given - omega * none) + old[t] * x
        ours = denoised(net, schedule, semantic, behaviour) @ net.decoder.T + net.decoder_bias
    assert (ours.double() - x).abs().max() < 1e-5
    indices, values, recall = denoised_lists(net, schedule, semantic, behaviour, omega, 10)
    assert recall == 1
    expected = x.topk(10, dim=1)
    assert [set(row) for row in indices.tolist()] == [set(row) for row in expected.indices.tolist()]
    assert torch.allclose(values.double(), expected.values, atol=1e-5)


def test_mixed_noise_is_standard_normal():
    draws = torch.stack([mixed_noise(torch.randn(6, 4), 2) for _ in range(20_000)])
    for row in (draws[:, 0], draws[:, 1]):
        assert row.mean(dim=0).abs().max() < 0.03
        assert (row.T.cov() - torch.eye(4)).abs().max() < 0.05
        assert row[:, 0].pow(4).mean() == pytest.approx(3, abs=0.2)


def test_noise_of_few_vectors_differs_between_rows():
    noise = mixed_noise(torch.randn(8, 5), 3)
    assert not torch.allclose(noise[0], noise[1])


def denoised(net, schedule, semantic, behaviour) -> torch.Tensor:
    parts = SparseRows(semantic, CPU), SparseRows(behaviour, CPU)
    return denoise_rows(net, schedule, *parts, 4.0, Reencoding.of(net))


def test_bfloat16_products_stay_close():
    graph, net, schedule = graphs(), small_net().eval(), Schedule.from_settings(SETTINGS, CPU)
    exact = denoised(net, schedule, *graph)
    net.dtype = torch.bfloat16
    rough = denoised(net, schedule, *graph)
    assert (rough - exact).norm() / exact.norm() < 0.02
    assert rough.dtype == torch.float32


@pytest.mark.parametrize("k", [10, ITEMS + 1])
def test_a_search_in_bfloat16_returns_float32_entries(k):
    net, hidden = small_net(), torch.randn(20, HIDDEN)
    values, columns = largest_entries(net, hidden, k, net.decoder)
    found, places = largest_entries(net, hidden, k, net.decoder.bfloat16())
    assert found.dtype == torch.float32
    assert torch.allclose(found, values, atol=1e-5)
    assert torch.equal(places, columns)


def test_the_same_seed_and_small_blocks_change_nothing(monkeypatch):
    graph, schedule = graphs(), Schedule.from_settings(SETTINGS, CPU)
    settings = SETTINGS.model_copy(update={"dropout": 0.5})

    def run():
        torch.manual_seed(3)
        net = CDNet(ITEMS, settings, torch.float32)
        loss = training_loss(net, schedule, *graph, np.arange(ITEMS), settings)
        loss.backward()
        lists, values, _ = denoised_lists(net.eval(), schedule, *graph, 4.0, 10)
        return [loss, *(p.grad for p in net.parameters())], lists, values

    whole, lists, values = run()
    monkeypatch.setattr("mmtoolkit.recommend.models.diffusion.DENOISED_ENTRIES", 17 * HIDDEN)
    monkeypatch.setattr("mmtoolkit.recommend.graphs.sparse.ADDED_ENTRIES", 17 * HIDDEN)
    repeated, small_lists, small_values = run()
    assert all(map(torch.equal, repeated, whole))
    assert torch.allclose(small_values, values, atol=1e-5)
    assert (small_lists == lists).float().mean() > 0.99


@pytest.mark.parametrize("count", [2, 3, 11])
def test_processes_share_a_batch(count):
    graph, schedule = graphs(), Schedule.from_settings(SETTINGS, CPU)
    settings = SETTINGS.model_copy(update={"dropout": 0.5})
    net = CDNet(ITEMS, settings, torch.float32)

    def run(workers):
        torch.manual_seed(5)
        net.zero_grad()
        loss = training_loss(net, schedule, *graph, np.arange(ITEMS), settings, workers)
        loss.backward()
        return [loss.detach(), *(p.grad.clone() for p in net.parameters())], torch.rand(1)

    whole, drawn_after = run(ALONE)
    shares = [run(Workers(rank, count)) for rank in range(count)]
    for one, *parts in zip(whole, *(share[0] for share in shares), strict=True):
        assert (sum(parts) - one).norm() < 1e-5 * one.norm()
    assert all(share[1] == drawn_after for share in shares)


def test_candidates_are_two_hops_and_the_best_of_them_are_found(monkeypatch):
    (semantic, behaviour), schedule = graphs(), Schedule.from_settings(SETTINGS, CPU)
    net = small_net().eval()
    _, values, recall = denoised_lists(net, schedule, semantic, behaviour, 4.0, 10, search_candidates=True)
    entries = denoised(net, schedule, semantic, behaviour) @ net.decoder.T + net.decoder_bias
    linked = neighbourhood(semantic, behaviour).toarray()
    near = torch.from_numpy(linked @ linked) > 0
    expected = entries.masked_fill(~near, -torch.inf).topk(10, dim=1)
    assert torch.allclose(values, expected.values, atol=1e-5)
    exact = entries.topk(10, dim=1).indices
    shared = [
        len(set(a) & set(b)) / 10 for a, b in zip(exact.tolist(), expected.indices.tolist(), strict=True)
    ]
    assert recall == pytest.approx(np.mean(shared))
    assert 0 < recall < 1

    monkeypatch.setattr("mmtoolkit.recommend.models.diffusion.RECALL_ROWS", ITEMS // 4)  # every fourth row
    monkeypatch.setattr("mmtoolkit.recommend.models.diffusion.DENOISED_ENTRIES", 7 * HIDDEN)
    _, _, recall = denoised_lists(net, schedule, semantic, behaviour, 4.0, 10, search_candidates=True)
    assert recall == pytest.approx(np.mean(shared[::4]))


def test_rows_with_few_candidates_get_fewer_edges():
    lists, scores = torch.tensor([[0, 1], [1, 0]]), torch.tensor([[2.0, 1.0], [3.0, -torch.inf]])
    assert weighted_list_graph(lists, scores, "score").toarray().tolist() == [[2, 1], [0, 3]]
