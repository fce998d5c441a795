"""Names of a denoiser's layers in other programs, for reading and writing their LoRA files.

Diffusers names layers after its own blocks; kohya's trainers, ComfyUI and A1111 use the names of the models'
original code. In the original code of FLUX and SD 3, query, key and value are one fused layer; Diffusers has
three.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

from torch import nn

Names = dict[str, tuple[str, ...]]
"""From a name in another program to the matching layers of the Diffusers network."""

_UNET = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_RESNET = {
    "norm1": "in_layers.0",
    "norm2": "out_layers.0",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
    "conv1": "in_layers.2",
    "conv2": "out_layers.3",
}
_MIDDLE = {("resnets", "0"): 0, ("attentions", "0"): 1, ("resnets", "1"): 2}

_QKV = ("to_q", "to_k", "to_v")
_ADDED_QKV = ("add_q_proj", "add_k_proj", "add_v_proj")
_SD3_BLOCK = {
    "x_block.attn.qkv": tuple(f"attn.{name}" for name in _QKV),
    "x_block.attn.proj": ("attn.to_out.0",),
    "x_block.attn2.qkv": tuple(f"attn2.{name}" for name in _QKV),
    "x_block.attn2.proj": ("attn2.to_out.0",),
    "x_block.mlp.fc1": ("ff.net.0.proj",),
    "x_block.mlp.fc2": ("ff.net.2",),
    "context_block.attn.qkv": tuple(f"attn.{name}" for name in _ADDED_QKV),
    "context_block.attn.proj": ("attn.to_add_out",),
    "context_block.mlp.fc1": ("ff_context.net.0.proj",),
    "context_block.mlp.fc2": ("ff_context.net.2",),
}
_FLUX_DOUBLE = {
    "img_attn.qkv": tuple(f"attn.{name}" for name in _QKV),
    "img_attn.proj": ("attn.to_out.0",),
    "img_mlp.0": ("ff.net.0.proj",),
    "img_mlp.2": ("ff.net.2",),
    "img_mod.lin": ("norm1.linear",),
    "txt_attn.qkv": tuple(f"attn.{name}" for name in _ADDED_QKV),
    "txt_attn.proj": ("attn.to_add_out",),
    "txt_mlp.0": ("ff_context.net.0.proj",),
    "txt_mlp.2": ("ff_context.net.2",),
    "txt_mod.lin": ("norm1_context.linear",),
}
_FLUX_SINGLE = {
    "linear1": (*(f"attn.{name}" for name in _QKV), "proj_mlp"),
    "linear2": ("proj_out",),
    "modulation.lin": ("norm.linear",),
}
_BLOCKS = {
    "SD3Transformer2DModel": {"joint_blocks": ("transformer_blocks", _SD3_BLOCK)},
    "FluxTransformer2DModel": {
        "double_blocks": ("transformer_blocks", _FLUX_DOUBLE),
        "single_blocks": ("single_transformer_blocks", _FLUX_SINGLE),
    },
}
_EMBEDDERS = {
    "SD3Transformer2DModel": {
        "x_embedder.proj": "pos_embed.proj",
        "context_embedder": "context_embedder",
        "t_embedder.mlp.0": "time_text_embed.timestep_embedder.linear_1",
        "t_embedder.mlp.2": "time_text_embed.timestep_embedder.linear_2",
        "y_embedder.mlp.0": "time_text_embed.text_embedder.linear_1",
        "y_embedder.mlp.2": "time_text_embed.text_embedder.linear_2",
        "final_layer.linear": "proj_out",
    },
    "FluxTransformer2DModel": {
        "img_in": "x_embedder",
        "txt_in": "context_embedder",
        "time_in.in_layer": "time_text_embed.timestep_embedder.linear_1",
        "time_in.out_layer": "time_text_embed.timestep_embedder.linear_2",
        "vector_in.in_layer": "time_text_embed.text_embedder.linear_1",
        "vector_in.out_layer": "time_text_embed.text_embedder.linear_2",
        "guidance_in.in_layer": "time_text_embed.guidance_embedder.linear_1",
        "guidance_in.out_layer": "time_text_embed.guidance_embedder.linear_2",
        "final_layer.linear": "proj_out",
    },
}


def original_names(layers: Iterable[str], network: nn.Module) -> Names:
    """Map the original code's names to the layers of a Diffusers network.

    Args:
        layers: dotted names of the network's layers.
        network: the Diffusers network; its class and configuration say how the blocks are arranged.

    Returns:
        The names of which at least one layer exists; a fused name has several layers, in their fused order.
    """
    known = set(layers)
    kind = type(network).__name__
    if kind == "UNet2DConditionModel":
        depth = int(cast("Any", network).config.layers_per_block) + 1
        pairs = ((_unet_name(layer, depth, known), layer) for layer in known)
        return {name: (layer,) for name, layer in pairs if name}
    names: Names = {name: (layer,) for name, layer in _EMBEDDERS.get(kind, {}).items() if layer in known}
    for original, (block, inside) in _BLOCKS.get(kind, {}).items():
        names |= dict(_numbered_names(original, block, inside, known))
    return names


def _numbered_names(
    original: str, block: str, inside: Mapping[str, tuple[str, ...]], known: set[str]
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the original name and the layers of everything inside a list of numbered blocks."""
    numbers = {layer.split(".")[1] for layer in known if layer.startswith(f"{block}.")}
    for number in numbers:
        for name, parts in inside.items():
            layers = tuple(f"{block}.{number}.{part}" for part in parts)
            if known.intersection(layers):
                yield f"{original}.{number}.{name}", layers


def _unet_name(layer: str, depth: int, known: set[str]) -> str | None:
    """Return the original name of a UNet's layer, or None if it has none.

    The original code numbers all blocks of the way down through as `input_blocks`, and of the way up as
    `output_blocks`; Diffusers numbers resolutions, and layers within each.

    Args:
        layer: dotted name in the Diffusers network.
        depth: blocks per resolution: its layers and the one that changes the resolution.
        known: all layers of the network.
    """
    if layer in _UNET:
        return _UNET[layer]
    part, *rest = layer.split(".")
    if part == "mid_block" and tuple(rest[:2]) in _MIDDLE:
        return f"middle_block.{_MIDDLE[rest[0], rest[1]]}.{_inside(rest[0], rest[2:])}"
    if part not in {"down_blocks", "up_blocks"}:
        return None
    block, kind, number, inner = int(rest[0]), rest[1], int(rest[2]), _inside(rest[1], rest[3:])
    if kind == "downsamplers":
        return f"input_blocks.{(block + 1) * depth}.0.op"
    if kind == "upsamplers":
        attends = any(name.startswith(f"up_blocks.{block}.attentions.") for name in known)
        return f"output_blocks.{block * depth + depth - 1}.{2 if attends else 1}.conv"
    position = {"down_blocks": f"input_blocks.{1 + block * depth + number}"}.get(
        part, f"output_blocks.{block * depth + number}"
    )
    return f"{position}.{int(kind == 'attentions')}.{inner}"


def _inside(kind: str, rest: list[str]) -> str:
    """Return the original name of a layer within its block."""
    inner = ".".join(rest)
    return _RESNET.get(inner, inner) if kind == "resnets" else inner
