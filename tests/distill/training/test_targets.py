import pytest
import torch

from mmtoolkit.core.config import resolve, set_layers
from mmtoolkit.distill.config import DistillSettings
from mmtoolkit.distill.sampling.grids import equidistant, training_grid
from mmtoolkit.distill.training.targets import Targets, pool

CPU = torch.device("cpu")
# of the published code for 250 training steps
PUBLISHED_POOL = "0 127 143 167 199 251 287 335 375 399 431 499 571 599 627 667 715 751 799 835 859 875"


def settings(**changes):
    layers = set_layers([f"targets.{name}={value}" for name, value in changes.items()])
    return resolve(DistillSettings, layers).settings.targets


def allowed(rule, start, before, targets):
    """Write down the candidates of one start from the definitions, slowly."""
    grid = training_grid(targets.training_steps)
    if rule == "lcm":
        return {0}
    if rule == "tcd":
        return set(range(before + 1))
    if rule == "pcm":
        edges = [grid[len(grid) * k // targets.phases] for k in range(targets.phases)]
        return {max([edge for edge in edges if edge <= before], default=0)}
    schedules = [
        equidistant(k, targets.training_steps) for k in range(targets.steps_min, targets.steps_max + 1)
    ]
    union = {0}.union(*schedules)
    if targets.window == "schedule":
        return {max([t for t in one if t <= before], default=0) for one in schedules}
    if targets.window == "published":
        up = max(t for t in union if t <= before)
        return {t for t in union if up - 260 <= t <= up}
    edges = [*schedules[0], 0]
    longest = max(edges[i] - edges[i + 1] for i in range(len(edges) - 1))
    return {t for t in union if start - longest <= t <= before}


CHOICES = [("lcm", "schedule"), ("pcm", "schedule"), ("tcd", "schedule")] + [
    ("tdd", window) for window in ("paper", "published", "schedule")
]


@pytest.mark.parametrize("training_steps", [250, 50])
@pytest.mark.parametrize(("rule", "window"), CHOICES)
def test_candidates_are_those_of_the_definition(rule, window, training_steps):
    given = settings(rule=rule, window=window, training_steps=training_steps)
    targets = Targets.from_settings(given, CPU)
    for n, (start, before) in enumerate(zip(targets.grid.tolist(), targets.before.tolist(), strict=True)):
        found = set(targets.candidates[n, : int(targets.counts[n])].tolist())
        assert found == allowed(rule, start, before, given), start


@pytest.mark.parametrize(("rule", "window"), CHOICES)
def test_draws_are_uniform_over_the_candidates(rule, window):
    given = settings(rule=rule, window=window, eta=0)
    targets = Targets.from_settings(given, CPU)
    n = torch.full((20_000,), 180)
    drawn = targets.draw(n, torch.Generator().manual_seed(0))
    listed = targets.candidates[180, : int(targets.counts[180])]
    assert set(drawn.tolist()) <= set(listed.tolist())
    if len(listed) < 30:
        for value in listed.unique():
            share = (listed == value).double().mean()
            assert (drawn == value).double().mean().item() == pytest.approx(share.item(), abs=0.015)


def test_the_pool_is_the_published_one():
    assert [t for t in pool(settings()) if t != 999] == [int(t) for t in PUBLISHED_POOL.split()]


def test_starts_and_the_point_below():
    targets = Targets.from_settings(settings(), CPU)
    assert targets.grid[[0, 1, -1]].tolist() == [3, 7, 999]
    assert targets.before[[0, 1, -1]].tolist() == [0, 3, 995]
    n = targets.draw_starts(50_000, torch.Generator().manual_seed(0))
    assert n.min() == 0
    assert n.max() == 249
    assert n.double().mean().item() == pytest.approx(124.5, abs=1)


def test_offset_lowers_targets_by_at_most_eta():
    whole = Targets.from_settings(settings(rule="tdd", eta=0), CPU)
    offset = Targets.from_settings(settings(rule="tdd", eta=0.3, eta_zero=0.5), CPU)
    n = torch.full((20_000,), 249)
    exact = whole.draw(n, torch.Generator().manual_seed(0))
    lower = offset.draw(n, torch.Generator().manual_seed(0))
    assert bool((lower <= exact).all())
    assert bool((lower >= (0.7 * exact).floor()).all())
    assert (lower == exact).double().mean().item() == pytest.approx(0.5, abs=0.02)
    assert (1 - lower[lower < exact] / exact[lower < exact]).mean().item() == pytest.approx(0.15, abs=0.01)


def test_only_tdd_has_an_offset():
    for rule in ("lcm", "pcm", "tcd"):
        assert Targets.from_settings(settings(rule=rule), CPU).eta == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps_min": 9}, "steps_max must not lie below"),
        ({"training_steps": 6}, "must not exceed"),
        ({"rule": "ddim"}, "targets.rule"),
        ({"eta_zero": 0.5}, "set targets.eta above 0"),
    ],
)
def test_impossible_settings(change, message):
    from mmtoolkit.core.errors import ConfigError

    with pytest.raises(ConfigError, match=message):
        settings(**change)
