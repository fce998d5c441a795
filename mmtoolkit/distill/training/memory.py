"""Expected memory of a training run, counted on the meta device before anything is loaded."""

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
"""Of both moments, for each trained number; 8-bit moments come with a float32 scale for each block of 256."""
_TOKENS = {"sd15": 77, "sdxl": 77, "sd3": 77 + 256, "flux": 512}


def expected_memory(settings: DistillSettings, source: Source, size: int, rows: int) -> dict[str, int]:
    """Count the bytes that training holds, by what they are for.

    Weights, gradients and optimizer are exact. Activations are what autograd keeps of one forward pass of the
    student; text encoders and autoencoder are not in memory.

    Args:
        settings: model, precision and train are used.
        source: the base.
        size: side of the pictures in pixels.
        rows: pictures computed at once on one device.
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
    """Refuse to start what cannot fit.

    Raises:
        ConfigError: saying what is needed, what is there, and which settings need less.
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
    """Return the bytes that are free on a device, or None where nobody says."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory())
    facts = Path("/proc/meminfo")
    lines = facts.read_text(encoding="utf-8").splitlines() if facts.is_file() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")), None)


def kept_activations(network: nn.Module, family: Family, shape: Sequence[int], *, checkpointing: bool) -> int:
    """Count the bytes that autograd keeps of a forward pass, without computing it.

    Args:
        network: on the meta device, with what trains in it.
        family: of the network.
        shape: of the latents, `(rows, channels, height, width)`.
        checkpointing: keep only the blocks' inputs, and one block's activations at a time.
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
    return keeper.kept + keeper.largest_block


def _meta_condition(family: Family, config: Any, rows: int) -> Condition:
    width = config.get("joint_attention_dim") or config.get("cross_attention_dim")
    added = 6 * (config.get("addition_time_embed_dim") or 0)
    pooled = config.get("pooled_projection_dim") or config.get("projection_class_embeddings_input_dim") or 0
    shapes = {
        "text": (rows, _TOKENS[family.name], width),
        "pooled": (rows, max(0, pooled - added)),
        "time_ids": (rows, 6),
        "guidance": (rows,),
    }
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


class _Keeper:
    """Adds up the storages that autograd saves; those of weights and what was seen before count nothing."""

    def __init__(self, network: nn.Module) -> None:
        self.kept = 0
        self.largest_block = 0
        self._held: dict[int, Any] = {}
        for parameter in network.parameters():
            self._new_bytes(parameter)

    def _new_bytes(self, tensor: Tensor) -> int:
        storage = tensor.untyped_storage()
        if storage._cdata in self._held:
            return 0
        self._held[storage._cdata] = storage  # kept alive, so that its address stays its own
        return storage.nbytes()

    def _pack(self, tensor: Tensor) -> Tensor:
        self.kept += self._new_bytes(tensor)
        return tensor

    @contextmanager
    def keeping(self) -> Iterator[None]:
        """Count while the context is open."""
        with saved_tensors_hooks(self._pack, lambda tensor: tensor):
            yield

    def block(self, module: Callable[..., Any], *inputs: Any) -> Any:
        """Run a checkpointed block: its inputs stay, its activations only while it is recomputed."""
        self.kept += sum(self._new_bytes(value) for value in inputs if isinstance(value, Tensor))
        before = self.kept
        with self.keeping():
            output = module(*inputs)
        self.largest_block = max(self.largest_block, self.kept - before)
        self.kept = before
        return output


class _Attention(torch.autograd.Function):
    """Keeps what a fused attention kernel keeps: its inputs and its output, no attention matrix."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        output = query.new_empty(*query.shape[:-1], value.shape[-1])
        ctx.save_for_backward(query, key, value, output)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        raise NotImplementedError("activations are counted, not computed")


class _FlashAttention(TorchFunctionMode):
    """On the meta device attention would be counted as if it kept its matrix; GPUs use fused kernels."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            given = dict(zip(("query", "key", "value"), args, strict=False)) | (kwargs or {})
            return _Attention.apply(given["query"], given["key"], given["value"])
        return func(*args, **(kwargs or {}))
