"""Encode prompts with the pipeline's own code; the text encoders are in memory only meanwhile."""

from collections.abc import Iterator, Sequence

import torch

from mmtoolkit.distill.models.denoiser import Condition
from mmtoolkit.distill.models.families.source import Source


@torch.no_grad()
def encode_prompts(
    source: Source, prompts: Sequence[str], precision: str, device: torch.device
) -> tuple[Condition, Condition]:
    """Return the condition of each prompt and that of no prompt; the text encoders are freed.

    "No prompt" is what the pipeline itself uses for guidance: zeros if SDXL's `force_zeros_for_empty_prompt`
    is set, otherwise the encoded empty prompt.

    Args:
        source: the checkpoint.
        prompts: texts to encode.
        precision: dtype of the text encoders, such as `bfloat16`.
        device: device to compute on.

    Returns:
        The condition of the prompts, and of one row without prompt, on the CPU.

    Raises:
        CheckpointError: if the text encoders cannot be loaded.
    """
    # an encoder gives no row for an empty list, and the shapes are needed even then
    parts = list(encode_in_parts(source, [prompts or [""]], precision, device))
    condition, empty = parts[0]
    return {name: value[: len(prompts)] for name, value in condition.items()}, empty


@torch.no_grad()
def encode_in_parts(
    source: Source, parts: Sequence[Sequence[str]], precision: str, device: torch.device, rows: int = 8
) -> Iterator[tuple[Condition, Condition]]:
    """Encode lists of prompts, loading the text encoders once; arguments as of :func:`encode_prompts`.

    Yields:
        For each list, the condition of its prompts and of one row without prompt, on the CPU.
    """
    pipeline = source.text_pipeline(getattr(torch, precision)).to(device)
    for prompts in parts:
        found = [source.family.encode(pipeline, prompts[i : i + rows]) for i in range(0, len(prompts), rows)]
        condition = {name: torch.cat([one[name] for one, _ in found]).cpu() for name in found[0][0]}
        yield condition, {name: value.cpu() for name, value in found[0][1].items()}
