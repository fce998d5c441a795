"""Expected memory of a training run, computed on the meta device before any weights are loaded."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from mmtoolkit.core.errors import ConfigError
from mmtoolkit.distill.config import DistillSettings
from mmtoolkit.distill.models.denoiser import Condition
from mmtoolkit.distill.models.families import Family, Source, lora_ranks
from mmtoolkit.distill.models.lora import add_lora

_OPTIMIZER_BYTES = {"adamw": 8.0, "adamw8bit": 2 + 8 / 256}
"""Bytes of both moments per trained parameter; 8-bit moments have a float32 scale per block of 256."""
_TOKENS = {"sd15": 77, "sdxl": 77, "sd3": 77 + 256, "flux": 512}
"""Length of the encoded prompts of each family."""


def expected_memory(settings: DistillSettings, source: Source, size: int, rows: int) -> dict[str, int]:
    """Return the bytes that training needs, by purpose.

    Weights, gradients and optimizer are exact. Activations are the tensors that autograd saves in one forward
    pass of the student. Text encoders and autoencoder are not in memory during training.

    Args:
        settings: `model`, `precision` and `train` are used.
        source: the base model.
        size: side of the pictures in pixels.
        rows: number of pictures per forward pass on one device.
    """
    network, family = source.empty_network(), source.family
    base = sum(parameter.numel() for parameter in network.parameters())
    width = getattr(torch, settings.precision).itemsize
    full = settings.model.adapter == "full"
    if full:
        network.requires_grad_(True)
    else:
        ranks = lora_ranks(network, family, settings.model.rank)
        add_lora(network, ranks, {name: float(rank) for name, rank in ranks.items()})
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    # the base takes the run's precision and the LoRA stays in float32, as in training: the size of saved
    # activations depends on it
    for parameter in network.parameters():
        if full or not parameter.requires_grad:
            parameter.data = parameter.data.to(getattr(torch, settings.precision))
    shape = (rows, *_latent_shape(source, size))
    return {
        "base weights": base * width,
        "trained weights": trained * 4,
        "gradients": trained * 4,
        "optimizer": int(trained * _OPTIMIZER_BYTES[settings.train.optimizer]),
        "average": trained * 4 if settings.train.ema else 0,
        "activations": kept_activations(network, family, shape, checkpointing=settings.model.checkpointing),
    }


def _latent_shape(source: Source, size: int) -> tuple[int, int, int]:
    vae = source.config("vae")
    side = size >> (len(vae["block_out_channels"]) - 1)
    return int(vae["latent_channels"]), side, side


def check_memory(parts: dict[str, int], device: torch.device) -> None:
    """Check that a training fits into the free memory of a device.

    Args:
        parts: bytes by purpose, see :func:`expected_memory`.
        device: device of the training.

    Raises:
        ConfigError: if it does not fit, naming the settings that reduce the need.
    """
    free, needed = free_memory(device), sum(parts.values())
    if free is None or needed <= free:
        return
    listed = ", ".join(f"{name} {value / 1e9:.1f}" for name, value in parts.items() if value > 5e7)
    raise ConfigError(
        f"this needs about {needed / 1e9:.1f} GB ({listed}), {device} has {free / 1e9:.1f} GB free; "
        "set model.checkpointing=true, precision=bfloat16, train.optimizer=adamw8bit, a lower model.rank or "
        "data.size, or a higher train.accumulation"
    )


def free_memory(device: torch.device) -> int | None:
    """Return the free bytes of a device, or None if the system does not report them."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory())
    facts = Path("/proc/meminfo")
    lines = facts.read_text(encoding="utf-8").splitlines() if facts.is_file() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")), None)


def kept_activations(network: nn.Module, family: Family, shape: Sequence[int], *, checkpointing: bool) -> int:
    """Return the bytes that autograd saves in a forward pass, without computing it.

    Args:
        network: network on the meta device, with its trainable parameters.
        family: family of the network.
        shape: shape of the latents, `(rows, channels, height, width)`.
        checkpointing: save only the inputs of blocks, and one block's activations at a time.
    """
    inner: Any = network
    keeper = _Keeper(network)
    if checkpointing:
        inner.enable_gradient_checkpointing(keeper.block)
    dtype = next(network.parameters()).dtype
    x = torch.empty(*shape, dtype=dtype, device="meta")
    times = torch.empty(shape[0], device="meta")
    arguments = family.arguments(x, times, _meta_condition(family, inner.config, shape[0]))
    with _FlashAttention(), keeper.keeping():
        network(**arguments, return_dict=False)
    # the backward pass recomputes one block at a time, so the largest one sets the peak
    return keeper.kept + keeper.largest_block


def _meta_condition(family: Family, config: Any, rows: int) -> Condition:
    """Return a condition on the meta device, of the shapes that the network's configuration expects."""
    width = config.get("joint_attention_dim") or config.get("cross_attention_dim")
    added = 6 * (config.get("addition_time_embed_dim") or 0)
    # SDXL's projection takes the pooled text and six embedded numbers (time_ids) side by side
    pooled = config.get("pooled_projection_dim") or config.get("projection_class_embeddings_input_dim") or 0
    shapes = {
        "text": (rows, _TOKENS[family.name], width),
        "pooled": (rows, max(0, pooled - added)),
        "time_ids": (rows, 6),
        "guidance": (rows,),
    }
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


class _Keeper:
    """Sums the bytes of the storages that autograd saves, each once; storages of weights do not count."""

    def __init__(self, network: nn.Module) -> None:
        self.kept = 0
        self.largest_block = 0
        self._held: dict[int, Any] = {}
        for parameter in network.parameters():
            self._new_bytes(parameter)

    def _new_bytes(self, tensor: Tensor) -> int:
        """Return the bytes of a tensor's storage, 0 if it was seen before: views share storage."""
        storage = tensor.untyped_storage()
        if storage._cdata in self._held:
            return 0
        self._held[storage._cdata] = storage  # kept alive, or a new storage could get the same address
        return storage.nbytes()

    def _pack(self, tensor: Tensor) -> Tensor:
        self.kept += self._new_bytes(tensor)
        return tensor

    @contextmanager
    def keeping(self) -> Iterator[None]:
        """Count inside a `with` block."""
        with saved_tensors_hooks(self._pack, lambda tensor: tensor):
            yield

    def block(self, module: Callable[..., Any], *inputs: Any) -> Any:
        """Run a checkpointed block, in the role of `torch.utils.checkpoint.checkpoint`.

        Its inputs are saved for the whole pass; its activations exist only while they are recomputed.
        """
        self.kept += sum(self._new_bytes(value) for value in inputs if isinstance(value, Tensor))
        before = self.kept
        with self.keeping():
            output = module(*inputs)
        self.largest_block = max(self.largest_block, self.kept - before)
        self.kept = before
        return output


class _Attention(torch.autograd.Function):
    """Saves what a fused attention kernel saves: its inputs and output, but not the attention matrix."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        output = query.new_empty(*query.shape[:-1], value.shape[-1])
        ctx.save_for_backward(query, key, value, output)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        raise NotImplementedError("activations are counted, not computed")


class _FlashAttention(TorchFunctionMode):
    """Replaces attention by :class:`_Attention`.

    On the meta device PyTorch takes the path that saves the attention matrix; GPUs use fused kernels.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            given = dict(zip(("query", "key", "value"), args, strict=False)) | (kwargs or {})
            return _Attention.apply(given["query"], given["key"], given["value"])
        return func(*args, **(kwargs or {}))
