import math
import os
import signal
import threading
from pathlib import Path

import pytest
import torch
from torch import nn

from mmtoolkit.core.errors import DivergenceError, StoppedError
from mmtoolkit.core.training import (
    Average,
    Best,
    check_finite,
    cosine_rate,
    linear_rate,
    set_rate,
    stop_signals,
)


def test_the_average_is_the_weighted_sum_of_all_weights():
    """Against the definition: a <- d a + (1 - d) w, d = min(decay, (1 + t) / (10 + t))."""
    weights = {"w": torch.zeros(3), "count": torch.tensor(0)}
    average, expected = Average(weights, decay=0.5), 0.0
    for step in range(1, 20):
        weights = {"w": torch.full((3,), float(step)), "count": torch.tensor(step)}
        average.update(weights, step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    assert average.values["w"].tolist() == pytest.approx([expected] * 3)
    assert average.values["count"] == 19


def test_an_average_without_decay_is_the_weights_themselves():
    layer = nn.Linear(2, 2)
    average = Average(dict(layer.named_parameters()), decay=0)
    with torch.no_grad():
        layer.weight.add_(1)
    average.update(dict(layer.named_parameters()), 1)
    assert average.values["weight"].data_ptr() == layer.weight.data_ptr()


def test_an_average_is_float32_and_comes_back():
    average = Average({"w": torch.ones(2, dtype=torch.bfloat16)}, decay=0.9)
    assert average.values["w"].dtype == torch.float32
    average.load({"w": torch.full((2,), 3.0)})
    assert average.values["w"].tolist() == [3, 3]


def test_linear_rate_rises_and_falls():
    factors = [linear_rate(step, 10, warmup=4, cooldown=4) for step in (0, 1, 3, 6, 8, 9)]
    assert factors == [0.25, 0.5, 1, 1, 0.5, 0.25]
    assert [linear_rate(step, 10, warmup=0, cooldown=0) for step in (0, 9)] == [1, 1]


def test_cosine_rate_rises_and_falls_to_zero():
    factors = [cosine_rate(step, 12, warmup=2) for step in (0, 1, 2, 7, 12)]
    assert factors == pytest.approx([0.5, 1, 1, 0.5, 0])
    assert cosine_rate(0, 4, warmup=0) == 1


def test_all_groups_of_an_optimizer_get_the_rate():
    groups = [{"params": [torch.zeros(1, requires_grad=True)]}, {"params": [torch.zeros(1)], "lr": 5.0}]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    set_rate(optimizer, 0.25)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.25]


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_stops_the_run(loss):
    with pytest.raises(DivergenceError, match=r"step 7: .*; lower train.learning_rate"):
        check_finite(loss, "step 7", "train.learning_rate")
    assert check_finite(2.5, "step 7", "train.learning_rate") == 2.5


@pytest.mark.parametrize(("higher", "expected"), [(True, (2, 0.9)), (False, (3, 0.1))])
def test_the_best_epoch_is_kept_and_comes_back(higher, expected):
    best = Best(higher)
    for epoch, score in enumerate((0.5, 0.9, 0.1, 0.5), 1):
        best.update(epoch, score)
    assert (best.epoch, best.score) == expected
    assert Best.of(best.state(), higher=higher) == best


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_the_first_signal_is_a_request_and_handlers_come_back(number, code):
    before = signal.getsignal(number)
    with stop_signals() as stop:
        assert not stop
        stop.check("step 1")
        os.kill(os.getpid(), number)
        assert stop
        assert signal.getsignal(number) == before  # a second signal stops at once
        message = f"{signal.Signals(number).name} after step 2; continue with `resume` runs/x"
        with pytest.raises(StoppedError, match=message) as error:
            stop.check("step 2", Path("runs/x"))
    assert error.value.exit_code == code
    assert signal.getsignal(number) == before


def test_other_threads_leave_signals_alone():
    before, found = signal.getsignal(signal.SIGTERM), []

    def run():
        with stop_signals() as stop:
            found.append(bool(stop))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [False]
    assert signal.getsignal(signal.SIGTERM) == before
