"""Whole pipelines with tiny networks, saved as folders: SD 1.5, SDXL, SD3 and FLUX without a hub."""

import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mmtoolkit.core.config import resolve, set_layers
from mmtoolkit.core.run import RunDirectory
from mmtoolkit.distill.config import DistillSettings
from mmtoolkit.distill.train import train


@pytest.fixture(scope="session")
def tiny_pipeline(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the folder of a family's tiny pipeline; each is made once a session."""
    root = tmp_path_factory.mktemp("pipelines")

    def make(family: str) -> Path:
        if not (root / family).is_dir():
            with torch.random.fork_rng():
                torch.manual_seed(0)
                BUILDERS[family]().save_pretrained(root / family)
        return root / family

    return make


def clip_tokenizer() -> Any:
    """Letters alone: every character of a word is one token."""
    from transformers import CLIPTokenizer

    letters = string.ascii_lowercase + string.digits
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=16)


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a CLIP with random weights, for pictures of 16 pixels."""
    from transformers import CLIPConfig, CLIPModel

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    tokenizer = clip_tokenizer()
    text = {"vocab_size": len(tokenizer), "max_position_embeddings": 16}
    text |= {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    config = CLIPConfig(
        text_config=sizes | text,
        vision_config=sizes | {"image_size": 16, "patch_size": 8},
        projection_dim=16,
    )
    folder = tmp_path_factory.mktemp("clip")
    with torch.random.fork_rng():
        torch.manual_seed(1)
        CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def t5_tokenizer() -> Any:
    """Single letters as a unigram vocabulary."""
    from transformers import T5Tokenizer

    tokens = ["<pad>", "</s>", "<unk>", "\N{LOWER ONE EIGHTH BLOCK}", *string.ascii_lowercase]
    return T5Tokenizer(vocab=[(token, -float(n)) for n, token in enumerate(tokens)], extra_ids=0)


def clip_model(tokenizer: Any, kind: str = "CLIPTextModel", width: int = 16) -> Any:
    import transformers

    config = transformers.CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=width,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=16,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    return getattr(transformers, kind)(config).eval()


def t5_model(tokenizer: Any, width: int = 16) -> Any:
    from transformers import T5Config, T5EncoderModel

    sizes = {"d_model": width, "d_ff": 32, "d_kv": 8, "num_heads": 2, "num_layers": 1}
    return T5EncoderModel(T5Config(vocab_size=len(tokenizer), **sizes)).eval()


def vae(**changes: Any) -> Any:
    """Halve the picture once: latents of half its size in 4 channels."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        **changes,
    ).eval()


def unet(**changes: Any) -> Any:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=2,
        norm_num_groups=4,
        **changes,
    ).eval()


def ddim() -> Any:
    from diffusers import DDIMScheduler

    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    return DDIMScheduler(**betas, clip_sample=False, set_alpha_to_one=False, steps_offset=1)


def sd15() -> Any:
    from diffusers import StableDiffusionPipeline

    tokenizer = clip_tokenizer()
    return StableDiffusionPipeline(
        vae=vae(scaling_factor=0.5),
        text_encoder=clip_model(tokenizer),
        tokenizer=tokenizer,
        unet=unet(cross_attention_dim=16),
        scheduler=ddim(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def sdxl() -> Any:
    from diffusers import StableDiffusionXLPipeline

    tokenizer = clip_tokenizer()
    network = unet(
        cross_attention_dim=32,
        transformer_layers_per_block=(1, 2),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 16,
    )
    return StableDiffusionXLPipeline(
        vae=vae(scaling_factor=0.25),
        text_encoder=clip_model(tokenizer),
        tokenizer=tokenizer,
        text_encoder_2=clip_model(tokenizer, "CLIPTextModelWithProjection"),
        tokenizer_2=tokenizer,
        unet=network,
        scheduler=ddim(),
        add_watermarker=False,
    )


def sd3() -> Any:
    from diffusers import (
        FlowMatchEulerDiscreteScheduler,
        SD3Transformer2DModel,
        StableDiffusion3Pipeline,
    )

    tokenizer, other = clip_tokenizer(), t5_tokenizer()
    network = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=32,
        caption_projection_dim=16,
        pooled_projection_dim=32,
        pos_embed_max_size=16,
    ).eval()
    return StableDiffusion3Pipeline(
        transformer=network,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae(scaling_factor=1.5, shift_factor=0.06, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=clip_model(tokenizer, "CLIPTextModelWithProjection"),
        tokenizer=tokenizer,
        text_encoder_2=clip_model(tokenizer, "CLIPTextModelWithProjection"),
        tokenizer_2=tokenizer,
        text_encoder_3=t5_model(other, width=32),
        tokenizer_3=other,
    )


def flux() -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    tokenizer, other = clip_tokenizer(), t5_tokenizer()
    network = FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        pooled_projection_dim=16,
        guidance_embeds=True,
        axes_dims_rope=(4, 4, 8),
    ).eval()
    shift = {"base_image_seq_len": 4, "max_image_seq_len": 64, "base_shift": 0.5, "max_shift": 1.15}
    return FluxPipeline(
        transformer=network,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True, **shift),
        vae=vae(scaling_factor=0.36, shift_factor=0.12, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=clip_model(tokenizer),
        tokenizer=tokenizer,
        text_encoder_2=t5_model(other),
        tokenizer_2=other,
    )


BUILDERS = {"sd15": sd15, "sdxl": sdxl, "sd3": sd3, "flux": flux}


@pytest.fixture(scope="session")
def captions() -> list[str]:
    """Captions of the five pictures, one of them twice."""
    return ["a red dog", "a blue cat", "a red dog", "a green bird", "a cat"]


@pytest.fixture(scope="session")
def pictures(captions: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for number, caption in enumerate(captions):
        pixels = rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(caption)
    return folder


@pytest.fixture(scope="session")
def settings_for(tiny_pipeline: Callable[[str], Path], pictures: Path) -> Callable[..., Any]:
    """Return the resolved settings of a family's shortest training, with some changes."""

    def make(family: str, *changes: str) -> Any:
        words = [
            f"model.family={family}",
            f"model.base={tiny_pipeline(family)}",
            f"data.path={pictures}",
            "data.size=16",
            "device=cpu",
            "model.rank=4",
            "train.steps=2",
            "train.batch_size=2",
            "train.sample_every=2",
            "train.warmup=0",
            "train.learning_rate=0.01",
        ]
        return resolve(DistillSettings, set_layers([*words, *changes]))

    return make


@pytest.fixture(scope="session")
def trained(
    settings_for: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """Return the run of a family's student, cached and trained once a session."""
    made: dict[str, Path] = {}

    def make(family: str) -> Path:
        if family not in made:
            resolved = settings_for(family)
            run = RunDirectory.new(tmp_path_factory.mktemp(family) / "run", resolved.to_yaml())
            train(resolved.settings, run)
            made[family] = run.path
        return made[family]

    return make


@pytest.fixture(scope="session")
def stock() -> Callable[..., Any]:
    """Open a folder as a pipeline of Diffusers."""
    import diffusers

    def load(folder: Path) -> Any:
        pipeline = diffusers.DiffusionPipeline.from_pretrained(folder)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    return load


@pytest.fixture(scope="session")
def draw() -> Callable[..., Any]:
    """Draw one picture of 16 pixels with a pipeline, always from the same noise."""

    def run(pipeline: Any, family: str, steps: int = 2, guidance: float = 1.0, **more: Any) -> Any:
        if family in ("sd3", "flux"):
            more["max_sequence_length"] = 16
        more["guidance_scale"] = 3.5 if family == "flux" else guidance
        size = {"height": 16, "width": 16, "num_inference_steps": steps, "output_type": "np"}
        generator = torch.Generator().manual_seed(0)
        return pipeline("a red dog", generator=generator, **size, **more).images[0]

    return run
