"""The differences between SD 1.5, SDXL, SD 3 and FLUX, as a table of small functions."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmtoolkit.distill.models.denoiser import Condition

Arguments = dict[str, Any]


@dataclass(frozen=True)
class Family:
    """One family of latent diffusion models.

    Attributes:
        name: value of model.family.
        pipeline: class of the Diffusers pipeline.
        part: name of the denoiser in the pipeline.
        network: class of the denoiser.
        flow: whether it is trained by flow matching.
        adapted: pattern of the layers that get the LoRA.
        arguments: makes the network's keyword arguments from latents `(rows, channels, height, width)`, times
            `(rows,)` and the condition (with `time_ids` and `guidance`).
        unpack: reshapes the network's output to the given shape of the latents.
        encode: encodes prompts with a pipeline; returns their condition, and one row for no prompt.
        layout: hub id with the configuration that a single file does not contain.
    """

    name: str
    pipeline: str
    part: str
    network: str
    flow: bool
    adapted: re.Pattern[str]
    arguments: Callable[[Tensor, Tensor, Condition], Arguments]
    unpack: Callable[[Tensor, torch.Size], Tensor]
    encode: Callable[[Any, Sequence[str]], tuple[Condition, Condition]]
    layout: str


def _same(output: Tensor, shape: torch.Size) -> Tensor:
    return output.view(shape)


def _sd15_arguments(x: Tensor, times: Tensor, condition: Condition) -> Arguments:
    return {"sample": x, "timestep": times, "encoder_hidden_states": condition["text"].to(x.dtype)}


def _sdxl_arguments(x: Tensor, times: Tensor, condition: Condition) -> Arguments:
    added = {"text_embeds": condition["pooled"].to(x.dtype), "time_ids": condition["time_ids"].to(x.dtype)}
    return _sd15_arguments(x, times, condition) | {"added_cond_kwargs": added}


def _sd3_arguments(x: Tensor, times: Tensor, condition: Condition) -> Arguments:
    return {
        "hidden_states": x,
        "timestep": times,
        "encoder_hidden_states": condition["text"].to(x.dtype),
        "pooled_projections": condition["pooled"].to(x.dtype),
    }


def _flux_arguments(x: Tensor, times: Tensor, condition: Condition) -> Arguments:
    height, width = x.shape[2:]
    text = condition["text"].to(x.dtype)
    # FLUX embeds positions from ids (0, row, column), one per 2 x 2 square of latents
    grid = torch.zeros(height // 2, width // 2, 3, device=x.device, dtype=x.dtype)
    grid[..., 1] = torch.arange(height // 2, device=x.device)[:, None]
    grid[..., 2] = torch.arange(width // 2, device=x.device)[None]
    return {
        "hidden_states": pack(x),
        "guidance": condition["guidance"],
        "timestep": times / 1000,  # the network multiplies by 1000 itself
        "encoder_hidden_states": text,
        "pooled_projections": condition["pooled"].to(x.dtype),
        "img_ids": grid.view(-1, 3),
        "txt_ids": torch.zeros(text.shape[1], 3, device=x.device, dtype=x.dtype),
    }


def pack(x: Tensor) -> Tensor:
    """Reshape latents to FLUX's tokens, one per 2 x 2 square.

    Args:
        x: latents `(rows, channels, height, width)`.

    Returns:
        Tokens `(rows, height / 2 * width / 2, channels * 4)`.
    """
    rows, channels, height, width = x.shape
    squares = x.view(rows, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return squares.reshape(rows, height // 2 * (width // 2), channels * 4)


def unpack(tokens: Tensor, shape: torch.Size) -> Tensor:
    """Reshape tokens to latents of `shape` `(rows, channels, height, width)`, the inverse of :func:`pack`."""
    rows, channels, height, width = shape
    squares = tokens.view(rows, height // 2, width // 2, channels, 2, 2)
    return squares.permute(0, 3, 1, 4, 2, 5).reshape(shape)


def _encode_sd15(pipeline: Any, prompts: Sequence[str]) -> tuple[Condition, Condition]:
    text, empty = pipeline.encode_prompt(list(prompts), pipeline.text_encoder.device, 1, True)
    return {"text": text}, {"text": empty[:1]}


def _encode_sdxl(pipeline: Any, prompts: Sequence[str]) -> tuple[Condition, Condition]:
    text, empty, pooled, empty_pooled = pipeline.encode_prompt(
        list(prompts), device=pipeline.text_encoder_2.device
    )
    return {"text": text, "pooled": pooled}, {"text": empty[:1], "pooled": empty_pooled[:1]}


def _encode_sd3(pipeline: Any, prompts: Sequence[str]) -> tuple[Condition, Condition]:
    device = pipeline.text_encoder.device
    text, empty, pooled, empty_pooled = pipeline.encode_prompt(list(prompts), None, None, device=device)
    return {"text": text, "pooled": pooled}, {"text": empty[:1], "pooled": empty_pooled[:1]}


def _encode_flux(pipeline: Any, prompts: Sequence[str]) -> tuple[Condition, Condition]:
    device = pipeline.text_encoder.device
    text, pooled, _ = pipeline.encode_prompt([*prompts, ""], device=device)
    # FLUX has no negative prompt; the empty prompt was encoded as the last row
    return {"text": text[:-1], "pooled": pooled[:-1]}, {"text": text[-1:], "pooled": pooled[-1:]}


_UNET_LAYERS = re.compile(
    r".*\b(to_q|to_k|to_v|to_out\.0|proj_in|proj_out|ff\.net\.0\.proj|ff\.net\.2"
    r"|conv1|conv2|conv_shortcut|time_emb_proj|downsamplers\.0\.conv|upsamplers\.0\.conv)"
)
_TRANSFORMER_LAYERS = re.compile(
    r".*_?blocks\.\d+\.((attn2?\.(to_[qkv]|to_out\.0|add_[qkv]_proj|to_add_out))"
    r"|ff(_context)?\.net\.(0\.proj|2)|proj_mlp|proj_out)"
)

FAMILIES: Mapping[str, Family] = {
    family.name: family
    for family in (
        Family(
            name="sd15",
            pipeline="StableDiffusionPipeline",
            part="unet",
            network="UNet2DConditionModel",
            flow=False,
            adapted=_UNET_LAYERS,
            arguments=_sd15_arguments,
            unpack=_same,
            encode=_encode_sd15,
            layout="stable-diffusion-v1-5/stable-diffusion-v1-5",
        ),
        Family(
            name="sdxl",
            pipeline="StableDiffusionXLPipeline",
            part="unet",
            network="UNet2DConditionModel",
            flow=False,
            adapted=_UNET_LAYERS,
            arguments=_sdxl_arguments,
            unpack=_same,
            encode=_encode_sdxl,
            layout="stabilityai/stable-diffusion-xl-base-1.0",
        ),
        Family(
            name="sd3",
            pipeline="StableDiffusion3Pipeline",
            part="transformer",
            network="SD3Transformer2DModel",
            flow=True,
            adapted=_TRANSFORMER_LAYERS,
            arguments=_sd3_arguments,
            unpack=_same,
            encode=_encode_sd3,
            layout="stabilityai/stable-diffusion-3.5-medium",
        ),
        Family(
            name="flux",
            pipeline="FluxPipeline",
            part="transformer",
            network="FluxTransformer2DModel",
            flow=True,
            adapted=_TRANSFORMER_LAYERS,
            arguments=_flux_arguments,
            unpack=unpack,
            encode=_encode_flux,
            layout="black-forest-labs/FLUX.1-dev",
        ),
    )
}
