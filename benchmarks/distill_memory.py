"""Count the memory of distilling SDXL at 1024 x 1024 with a rank-64 LoRA, on the real UNet's shape.

    python benchmarks/distill_memory.py [--record]

Nothing is loaded or computed: all sizes are counted on meta tensors. The published recipe holds two UNets in
float32 (teacher and student) with autocast, the LoRA with AdamW, the text encoders and the autoencoder.
"""

from typing import Any

import torch
from bench import Figures, describe_machine, make_parser
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from mmtoolkit.distill.config import DistillSettings, ModelSettings, TrainSettings
from mmtoolkit.distill.models.families import FAMILIES, Source
from mmtoolkit.distill.training.memory import expected_memory

UNET: dict[str, Any] = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
}
TEXT = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
TEXT_2 = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "projection_dim": 1280,
}

NAMES = {
    "with an average of the LoRA": "distill.memory.sdxl.ema",
    "average and 8-bit Adam": "distill.memory.sdxl.ema8",
}


class Published(Source):
    """The published SDXL base, from configurations written here instead of files."""

    def config(self, part: str) -> dict[str, Any]:
        """Return what its config.json holds."""
        return VAE if part == "vae" else UNET

    def empty_network(self) -> nn.Module:
        """Build the UNet without weights."""
        with torch.device("meta"):
            return UNet2DConditionModel(**UNET).requires_grad_(False)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def main() -> None:
    figures = Figures(make_parser(__doc__).parse_args().record)
    source = Published("SDXL base", FAMILIES["sdxl"])
    with torch.device("meta"):
        unet, vae = count(UNet2DConditionModel(**UNET)), count(AutoencoderKL(**VAE))
        text = count(CLIPTextModel(CLIPTextConfig(**TEXT)))
        text += count(CLIPTextModelWithProjection(CLIPTextConfig(**TEXT_2)))
    assert unet == 2_567_463_684, "not the published UNet"
    sizes = f"SDXL UNet {unet:,}", f"text encoders {text:,}", f"autoencoder {vae:,}"
    print(describe_machine(*sizes))
    settings = DistillSettings(
        precision="bfloat16", model=ModelSettings(family="sdxl", rank=64), train=TrainSettings(ema=0)
    )
    here = expected_memory(settings, source, 1024, 1)
    trained = here["trained weights"] // 4
    encoders = 2 * (text + vae)
    published = 2 * 4 * unet + 4 * 4 * trained + encoders
    held = sum(value for name, value in here.items() if name != "activations")
    print(f"rank 64 trains {trained:,} numbers")
    print(f"published recipe: two float32 UNets, LoRA with AdamW, encoders in half precision {gb(published)}")
    for name, value in here.items():
        print(f"  here: {name:<16} {gb(value)}")
    print(f"here: weights, optimizer, no encoders {gb(held)}, {published / held:.1f} times less; goal 8.5 GB")
    figures.add("distill.memory.sdxl", held / 1e9)
    figures.add("distill.memory.sdxl.published", published / 1e9)
    figures.add("distill.memory.sdxl.activations", here["activations"] / 1e9)
    variants: dict[str, DistillSettings] = {
        "with an average of the LoRA": settings.model_copy(update={"train": TrainSettings(ema=0.95)}),
        "average and 8-bit Adam": settings.model_copy(
            update={"train": TrainSettings(ema=0.95, optimizer="adamw8bit")}
        ),
    }
    for name, changed in variants.items():
        parts = expected_memory(changed, source, 1024, 1)
        total = sum(v for k, v in parts.items() if k != "activations")
        print(f"here, {name}: {gb(total)}")
        figures.add(NAMES[name], total / 1e9)
    model = settings.model.model_copy(update={"checkpointing": True})
    less = expected_memory(settings.model_copy(update={"model": model}), source, 1024, 1)
    print(f"activations of a picture, gradient checkpointing: {gb(less['activations'])}")
    figures.add("distill.memory.sdxl.checkpointing", less["activations"] / 1e9)


def gb(value: float) -> str:
    return f"{value / 1e9:.2f} GB"


if __name__ == "__main__":
    main()
