import random

import numpy as np
import pytest
import torch

from mmtoolkit.core.device import capture_rng, peak_memory, resolve_device, restore_rng, seed_everything
from mmtoolkit.core.errors import ConfigError


def draw():
    return random.random(), np.random.rand(), torch.rand(3).tolist()


def test_generators_continue_from_a_captured_state(tmp_path):
    seed_everything(5)
    draw()
    torch.save(capture_rng(), tmp_path / "rng.pt")
    expected = draw()
    restore_rng(torch.load(tmp_path / "rng.pt", weights_only=True))
    assert draw() == expected


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_absent_devices_are_refused():
    with pytest.raises(ConfigError, match="no cuda device"):
        resolve_device("cuda")


def test_peak_memory_is_that_of_a_process_with_torch():
    assert 50e6 < peak_memory(torch.device("cpu")) < 1e12
