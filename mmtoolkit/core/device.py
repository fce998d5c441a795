"""Devices, precision, seeds and the state of every random generator."""

import atexit
import random
import resource
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mmtoolkit.core.errors import ConfigError
from mmtoolkit.core.fields import DeviceName
from mmtoolkit.core.logging import logger

if TYPE_CHECKING:
    from accelerate import Accelerator


def resolve_device(name: DeviceName) -> torch.device:
    """Turn a setting into a device; ``auto`` takes CUDA, then MPS, then the CPU.

    Raises:
        ConfigError: if the named device is not to be had.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next((kind for kind, usable in available.items() if usable), "cpu"))
    if not available.get(name, True):
        raise ConfigError(f"`device` {name}: no {name} device on this machine; use auto or cpu")
    return torch.device(name)


def make_accelerator(device: torch.device) -> "Accelerator":
    """Join the processes that ``accelerate launch`` or ``torchrun`` started, or stand alone.

    Precision stays with the engine's own autocast, so that one process computes the same bits with
    and without Accelerate. In a group on the CPU the processes talk through gloo.

    Args:
        device: from :func:`resolve_device`; on CUDA every process takes the GPU of its local rank.
    """
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision="no")
    if accelerator.num_processes > 1:
        atexit.register(_leave_group)
    return accelerator


def _leave_group() -> None:
    """Leave the group of processes; one that ends without may be aborted by its network threads."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def use_bfloat16(precision: str, device: torch.device) -> bool:
    """Return whether to compute products in bfloat16: as set, unless a CPU would only emulate it, slowly."""
    if precision != "bfloat16" or device.type != "cpu":
        return precision == "bfloat16"
    native = bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    if not native:
        logger.info("precision bfloat16: this CPU has no instructions for it; computing in float32")
    return native


def describe_device(device: torch.device) -> str:
    """Name the device as a person would: the GPU's name, or the CPU's threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads"


def seed_everything(seed: int) -> None:
    """Seed python, numpy and torch on every device."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def capture_rng() -> dict[str, Any]:
    """Collect the state of every generator as tensors and plain types."""
    kind, keys, position, has_gauss, gauss = np.random.get_state()
    version, internal, gauss_next = random.getstate()
    return {
        "python": [version, torch.tensor(internal, dtype=torch.int64), gauss_next],
        "numpy": [kind, torch.from_numpy(np.asarray(keys, np.int64)), position, has_gauss, gauss],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_rng(state: dict[str, Any]) -> None:
    """Put every generator back to a state from :func:`capture_rng`."""
    version, internal, gauss_next = state["python"]
    random.setstate((version, tuple(internal.tolist()), gauss_next))
    kind, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])


def peak_memory(device: torch.device) -> int:
    """Return the most memory this process has held so far, in bytes (on CUDA: of the device)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
