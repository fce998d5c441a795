"""Encode prompts once, with the pipeline's own code, and forget the text encoders."""

from collections.abc import Iterator, Sequence

import torch

from mmtoolkit.distill.models.denoiser import Condition
from mmtoolkit.distill.models.families.source import Source


@torch.no_grad()
def encode_prompts(
    source: Source, prompts: Sequence[str], precision: str, device: torch.device
) -> tuple[Condition, Condition]:
    """Return the condition of each prompt and of one row without a prompt; text encoders are freed again.

    "Without a prompt" is what the pipeline itself uses for guidance: zeros where SDXL's
    `force_zeros_for_empty_prompt` says so, otherwise the encoded empty prompt.
    """
    parts = list(encode_in_parts(source, [prompts or [""]], precision, device))
    condition, empty = parts[0]
    return {name: value[: len(prompts)] for name, value in condition.items()}, empty


@torch.no_grad()
def encode_in_parts(
    source: Source, parts: Sequence[Sequence[str]], precision: str, device: torch.device, rows: int = 8
) -> Iterator[tuple[Condition, Condition]]:
    """Encode lists of prompts one after the other, with the text encoders loaded once.

    Yields:
        For each list, the condition of its prompts and of no prompt, on the CPU.
    """
    pipeline = source.text_pipeline(getattr(torch, precision)).to(device)
    for prompts in parts:
        found = [source.family.encode(pipeline, prompts[i : i + rows]) for i in range(0, len(prompts), rows)]
        condition = {name: torch.cat([one[name] for one, _ in found]).cpu() for name in found[0][0]}
        yield condition, {name: value.cpu() for name, value in found[0][1].items()}
