import json
import os
from pathlib import Path

import pytest
import torch

from mmtoolkit.distill.models.denoiser import Levels, to_x0_eps
from mmtoolkit.distill.sampling import scheduler as module
from mmtoolkit.distill.sampling.grids import equidistant, sampling_grid, training_grid
from mmtoolkit.distill.sampling.scheduler import TDDFlowScheduler, TDDScheduler

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
START = [0.5, -1.25, 2.0, 0.03]
# what the authors' sampler printed: training steps, steps, eta, timesteps, last sample
GOLDEN = [
    (250, 1, 0.3, [999], [-5.626869, -20.769027, 16.767967, -9.818084]),
    (250, 4, 0.0, [999, 751, 499, 251], [-1.880845, -16.130881, 16.392272, -4.907755]),
    (250, 4, 0.3, [999, 751, 499, 251], [-2.346779, -18.293483, 17.160072, -5.722308]),
    (250, 4, 1.0, [999, 751, 499, 251], [-2.683788, -17.708888, 14.458645, -5.330877]),
    (250, 8, 0.3, [999, 875, 751, 627, 499, 375, 251, 127], [-2.336809, -13.524407, 13.510719, -4.462601]),
    (50, 3, 0.3, [999, 679, 339], [-2.695964, -18.770835, 16.983853, -6.240752]),
    (50, 6, 0.0, [999, 839, 679, 499, 339, 179], [-1.544193, -14.540262, 16.856227, -3.987097]),
    (50, 8, 1.0, [999, 879, 759, 639, 499, 379, 259, 139], [-1.591563, -9.741206, 6.341235, -1.988197]),
]
NON_EQUIDISTANT = [
    (5, [999, 875, 751, 499, 251], [-1.645203, -13.65236, 16.191865, -3.989807]),
    (6, [999, 875, 751, 627, 499, 251], [-1.442701, -13.677827, 16.190983, -3.5504]),
    (7, [999, 875, 751, 627, 499, 375, 251], [-1.391923, -13.678283, 16.227868, -3.550137]),
]


def noise_function(x, t):
    """The fixed network of the reference numbers."""
    return 0.9 * torch.tanh(0.7 * x + 0.001 * t) + 0.1 * torch.sin(3 * x)


@pytest.fixture
def fixed_noise(monkeypatch):
    """The k-th stochastic step draws a fixed vector with sign (-1)^k."""
    drawn = []

    def draw(*_, **__):
        drawn.append((-1) ** len(drawn))
        return torch.tensor([0.3, -0.7, 1.1, -0.2], dtype=torch.float64) * drawn[-1]

    monkeypatch.setattr(module, "randn_tensor", draw)
    return drawn


def run(scheduler, steps, eta, drawn):
    drawn.clear()
    scheduler.set_timesteps(steps)
    x, samples = torch.tensor(START, dtype=torch.float64), []
    for t in scheduler.timesteps:
        x = scheduler.step(noise_function(x, int(t)), t, x, eta=eta).prev_sample
        samples.append(x.tolist())
    return samples


@pytest.mark.parametrize(("training_steps", "steps", "eta", "timesteps", "last"), GOLDEN)
def test_golden_samples(fixed_noise, training_steps, steps, eta, timesteps, last):
    scheduler = TDDScheduler(training_steps=training_steps, **BETAS)
    samples = run(scheduler, steps, eta, fixed_noise)
    assert scheduler.timesteps.tolist() == timesteps
    assert samples[-1] == pytest.approx(last, abs=1e-4)


@pytest.mark.parametrize(("steps", "timesteps", "last"), NON_EQUIDISTANT)
def test_non_equidistant_samples(fixed_noise, steps, timesteps, last):
    scheduler = TDDScheduler(schedule="non_equidistant", **BETAS)
    samples = run(scheduler, steps, 0.0, fixed_noise)
    assert scheduler.timesteps.tolist() == timesteps
    assert samples[-1] == pytest.approx(last, abs=1e-4)


@pytest.mark.skipif(
    "MMTK_TDD_REFERENCE" not in os.environ, reason="MMTK_TDD_REFERENCE names no reference file"
)
def test_every_setting_of_the_reference(fixed_noise):
    """All 48 settings and the three non-equidistant ones, every step."""
    stored = json.loads(Path(os.environ["MMTK_TDD_REFERENCE"]).read_text())
    assert len(stored["cases"]) == 48
    for case in stored["cases"]:
        samples = run(
            TDDScheduler(training_steps=case["training_steps"], **BETAS),
            case["steps"],
            case["eta"],
            fixed_noise,
        )
        torch.testing.assert_close(torch.tensor(samples), torch.tensor(case["samples"]), rtol=0, atol=1e-4)
    for steps, case in stored["non_equidistant_250"].items():
        samples = run(TDDScheduler(schedule="non_equidistant", **BETAS), int(steps), 0.0, fixed_noise)
        torch.testing.assert_close(torch.tensor(samples), torch.tensor(case["samples"]), rtol=0, atol=1e-4)


def test_grids():
    assert training_grid(250)[:3] == [999, 995, 991]
    assert training_grid(250)[-1] == 3
    assert equidistant(8, 250) == [999, 875, 751, 627, 499, 375, 251, 127]
    assert sampling_grid(4, 250, "non_equidistant") == equidistant(4, 250)
    assert sampling_grid(12, 250, "non_equidistant") == equidistant(12, 250)
    for steps in (0, 251):
        with pytest.raises(ValueError, match="steps must lie in"):
            equidistant(steps, 250)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_every_kind_of_output_gives_the_same_samples(prediction):
    """A network that knows x_0 and eps says so in its own way."""
    clean, eps = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    scheduler = TDDScheduler(prediction_type=prediction)
    scheduler.set_timesteps(4)
    x = scheduler.add_noise(clean, eps, torch.tensor([999, 999]))
    alpha, sigma = scheduler.levels.alpha[999], scheduler.levels.sigma[999]
    output = {"epsilon": eps, "sample": clean, "v_prediction": alpha * eps - sigma * clean}[prediction]
    after = scheduler.step(output, 999, x)
    torch.testing.assert_close(after.pred_original_sample, clean, atol=1e-4, rtol=1e-4)
    want = scheduler.add_noise(clean, eps, torch.tensor([751, 751]))
    torch.testing.assert_close(after.prev_sample, want, atol=1e-4, rtol=1e-4)


def test_noise_keeps_the_level_and_follows_the_generator():
    """After a stochastic step a sample of N(0, 1) data has variance 1 again."""
    scheduler = TDDScheduler(**BETAS)
    scheduler.set_timesteps(4)
    clean, eps = torch.randn(1, 200_000), torch.randn(1, 200_000)
    x = scheduler.add_noise(clean, eps, torch.tensor([751]))
    drawn = [scheduler._jump(clean, eps, 499, 0.3, torch.Generator().manual_seed(1)) for _ in range(2)]
    assert torch.equal(*drawn)
    assert drawn[0].std().item() == pytest.approx(1, abs=0.01)
    assert x.std().item() == pytest.approx(1, abs=0.01)


def test_last_step_is_exactly_the_clean_sample():
    scheduler = TDDScheduler(**BETAS)
    scheduler.set_timesteps(2)
    x = torch.randn(1, 8)
    for t in scheduler.timesteps:
        x, clean = scheduler.step(torch.zeros_like(x), t, x, eta=1.0, return_dict=False)
    assert torch.equal(x, clean)


def test_dynamic_thresholding_acts_in_the_first_steps_only():
    scheduler = TDDScheduler(prediction_type="sample", clip_steps=1)
    scheduler.set_timesteps(2)
    wild = torch.linspace(-5, 5, 101).view(1, -1)
    x = torch.zeros_like(wild)
    first = scheduler.step(wild, 999, x)
    limit = torch.quantile(wild.abs(), 0.995)
    assert torch.equal(first.pred_original_sample, wild.clamp(-limit, limit) / limit)
    second = scheduler.step(wild, 499, first.prev_sample)
    assert torch.equal(second.prev_sample, wild)


def test_from_config_of_other_schedulers(recwarn):
    from diffusers import DDIMScheduler, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler

    base = DDIMScheduler(beta_start=0.001, prediction_type="v_prediction")
    ours = TDDScheduler.from_config(base.config, training_steps=50)
    torch.testing.assert_close(ours.alphas_cumprod, base.alphas_cumprod)
    assert ours.prediction == "v_prediction"
    assert ours.config.training_steps == 50
    converted = EulerDiscreteScheduler.from_config(ours.config)
    torch.testing.assert_close(converted.alphas_cumprod, base.alphas_cumprod)
    flow = TDDFlowScheduler.from_config(FlowMatchEulerDiscreteScheduler(shift=3.0).config)
    assert flow.config.shift == 3
    assert not recwarn


@pytest.mark.parametrize("kind", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_betas_are_those_of_diffusers(kind):
    from diffusers import DDIMScheduler

    want = DDIMScheduler(beta_schedule=kind, rescale_betas_zero_snr=True).alphas_cumprod
    ours = TDDScheduler(
        beta_schedule=kind, beta_start=1e-4, beta_end=0.02, rescale_betas_zero_snr=True
    ).alphas_cumprod
    torch.testing.assert_close(ours, want, atol=1e-5, rtol=0)


def test_flow_sigmas_are_shifted():
    scheduler = TDDFlowScheduler(shift=3.0)
    scheduler.set_timesteps(4)
    u = torch.tensor([1.0, 0.752, 0.5, 0.252])
    torch.testing.assert_close(scheduler.timesteps, 1000 * 3 * u / (1 + 2 * u))
    dynamic = TDDFlowScheduler(use_dynamic_shifting=True)
    dynamic.set_timesteps(4, mu=1.0986122886681098)
    torch.testing.assert_close(dynamic.timesteps, scheduler.timesteps)


def test_a_straight_flow_is_followed_exactly():
    """Where x_t = (1 - sigma) x_0 + sigma eps with constant velocity, any number of steps is exact."""
    clean, eps = torch.randn(2, 5), torch.randn(2, 5)
    for steps in (1, 3, 7):
        scheduler = TDDFlowScheduler(shift=2.5)
        scheduler.set_timesteps(steps)
        x = eps
        for t in scheduler.timesteps:
            x = scheduler.step(eps - clean, t, x, return_dict=False)[0]
        torch.testing.assert_close(x, clean, atol=1e-5, rtol=0)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample", "flow"])
def test_estimates_are_the_inverse_of_noising(prediction):
    levels = Levels.flow(3.0) if prediction == "flow" else TDDScheduler().levels
    clean, eps, t = torch.randn(6, 3), torch.randn(6, 3), torch.tensor([50, 200, 400, 600, 800, 990])
    x = levels.noised(clean, eps, t)
    alpha, sigma = levels.at(t, x)
    output = {
        "epsilon": eps,
        "sample": clean,
        "v_prediction": alpha * eps - sigma * clean,
        "flow": eps - clean,
    }[prediction]
    found = to_x0_eps(output, x, alpha, sigma, prediction)
    for got, want in zip(found, (clean, eps), strict=True):
        torch.testing.assert_close(got, want, atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: s.set_timesteps(), "either"),
        (lambda s: s.set_timesteps(4, timesteps=[9, 5]), "either"),
        (lambda s: s.set_timesteps(timesteps=[5, 9]), "descend"),
        (lambda s: s.set_timesteps(timesteps=[1000]), "descend"),
        (lambda s: s.set_timesteps(251), "must lie in"),
        (lambda s: s.step(torch.zeros(1), 999, torch.zeros(1)), "call set_timesteps"),
        (lambda _: TDDScheduler(prediction_type="flow"), "prediction_type"),
        (lambda _: TDDScheduler(beta_schedule="cosine"), "beta_schedule"),
    ],
)
def test_bad_calls(call, message):
    with pytest.raises(ValueError, match=message):
        call(TDDScheduler())


def test_own_timesteps_and_eta_range():
    scheduler = TDDScheduler(**BETAS)
    scheduler.set_timesteps(timesteps=[999, 600, 40])
    assert scheduler.timesteps.tolist() == [999, 600, 40]
    assert len(scheduler) == 1000
    with pytest.raises(ValueError, match="eta"):
        scheduler.step(torch.zeros(1), 999, torch.zeros(1), eta=1.5)
