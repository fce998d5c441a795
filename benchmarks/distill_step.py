"""Time a distillation step against the published way of computing it, in one run on one machine.

    python benchmarks/distill_step.py [--family sd15] [--precision float16] [--full] [--record]

The published step holds two UNets in float32 under autocast, runs the teacher's conditional and
unconditional passes one after the other for every row, and encodes pictures and prompts in the loop. Both
steps see the same pictures, timesteps and LoRA. Without --full, a family is scaled down to a fifth of its
width and 256 pixels, so that its encoders keep their share of the work. On the CPU, seconds are those that
the processor spent on this process, which a busy machine changes less.
"""

import time
from argparse import Namespace
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from bench import Figures, describe_machine, make_parser
from diffusers import AutoencoderKL, UNet2DConditionModel
from distill_memory import TEXT, TEXT_2, UNET, VAE
from peft.tuners.lora import Conv2d, Linear
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from mmtoolkit.distill.config import ModelSettings, TargetSettings
from mmtoolkit.distill.models.denoiser import Condition, autocast
from mmtoolkit.distill.models.families import FAMILIES, LatentDenoiser, Source
from mmtoolkit.distill.models.families.source import quiet_libraries
from mmtoolkit.distill.models.lora_layers import LeanConv2d, LeanLinear
from mmtoolkit.distill.models.losses import Draw, distillation_loss, jump, pseudo_huber
from mmtoolkit.distill.training.targets import Targets

GUIDANCE = 3.5
SD15_UNET: dict[str, Any] = {
    "sample_size": 64,
    "block_out_channels": (320, 640, 1280, 1280),
    "attention_head_dim": 8,
    "cross_attention_dim": 768,
}
FULL: dict[str, Any] = {
    "sdxl": {"unet": UNET, "vae": VAE, "text": [TEXT, TEXT_2], "size": 1024},
    "sd15": {"unet": SD15_UNET, "vae": VAE, "text": [TEXT], "size": 512},
}
SMALL_TEXT = TEXT | {"hidden_size": 152, "intermediate_size": 608, "num_hidden_layers": 1}
SMALL: dict[str, Any] = {
    "sdxl": {
        "unet": UNET
        | {
            "block_out_channels": (64, 128, 256),
            "attention_head_dim": (1, 2, 4),
            "transformer_layers_per_block": (1, 1, 4),
            "cross_attention_dim": 408,
            "addition_time_embed_dim": 64,
            "projection_class_embeddings_input_dim": 6 * 64 + 256,
        },
        "vae": VAE | {"block_out_channels": (20, 40, 80, 80), "norm_num_groups": 4},
        "text": [
            SMALL_TEXT | {"num_attention_heads": 4},
            SMALL_TEXT
            | {
                "hidden_size": 256,
                "intermediate_size": 1024,
                "num_attention_heads": 4,
                "projection_dim": 256,
            },
        ],
        "size": 256,
    },
    "sd15": {
        "unet": SD15_UNET | {"block_out_channels": (64, 128, 256, 256), "cross_attention_dim": 152},
        "vae": VAE | {"block_out_channels": (26, 52, 104, 104), "norm_num_groups": 2},
        "text": [SMALL_TEXT | {"num_attention_heads": 4}],
        "size": 256,
    },
}
PEFT_OWN: dict[type, type] = {LeanLinear: Linear, LeanConv2d: Conv2d}
SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


class Drawn(Source):
    """SDXL with random weights, from configurations written here instead of files."""

    configs: dict[str, Any]

    def config(self, part: str) -> dict[str, Any]:
        """Return what its config.json holds."""
        return self.configs[part]


def make_unet(config: dict[str, Any], dtype: torch.dtype, device: torch.device) -> UNet2DConditionModel:
    torch.manual_seed(0)
    return UNet2DConditionModel(**config).to(device, dtype).requires_grad_(False)


def student_of(
    unet: UNet2DConditionModel, source: Source, size: int, nothing: Condition, rank: int, *, lean: bool
) -> LatentDenoiser:
    denoiser = LatentDenoiser(source, unet, size, nothing)
    denoiser.adapt(ModelSettings(family="sdxl", rank=rank))
    for module in unet.modules():
        if not lean and type(module) in PEFT_OWN:
            module.__class__ = PEFT_OWN[type(module)]
    return denoiser


class Encoders:
    """Autoencoder and text encoders in half precision, as the published step holds them."""

    def __init__(self, shape: dict[str, Any], dtype: torch.dtype, device: torch.device) -> None:
        """Build them with random weights."""
        self.vae = AutoencoderKL(**shape["vae"]).to(device, dtype).requires_grad_(False)
        kinds = (CLIPTextModel, CLIPTextModelWithProjection)
        pairs = zip(kinds, shape["text"], strict=False)
        self.text = [kind(CLIPTextConfig(**config)).to(device, dtype).eval() for kind, config in pairs]

    @torch.no_grad()
    def __call__(self, pictures: Tensor, tokens: Tensor) -> tuple[Tensor, Condition]:
        """Encode a batch."""
        latents = self.vae.encode(pictures.to(self.vae.dtype)).latent_dist.sample() * 0.18
        return latents.float(), self.encode_text(tokens)

    def encode_text(self, tokens: Tensor) -> Condition:
        """Encode prompts as SD 1.5 does with one encoder, or as SDXL does with two."""
        found = [encoder(tokens, output_hidden_states=True) for encoder in self.text]
        if len(found) == 1:
            return {"text": found[0].last_hidden_state.float()}
        hidden = torch.cat([one.hidden_states[-2] for one in found], -1)
        return {"text": hidden.float(), "pooled": found[1].text_embeds.float()}


def work(family: str, shape: dict[str, Any]) -> dict[str, float]:
    """Count the floating-point operations of each part for one picture, on meta tensors."""
    device, size = torch.device("meta"), shape["size"]
    source = source_of(family, shape)
    encoders = Encoders(shape, torch.float32, device)
    unet = LatentDenoiser(source, make_unet(shape["unet"], torch.float32, device), size, {})
    tokens = torch.zeros(1, 77, dtype=torch.long, device=device)
    x, t = torch.empty(1, *unet.shape, device=device), torch.zeros(1, dtype=torch.long, device=device)
    found = {}
    with torch.no_grad():
        condition = encoders.encode_text(tokens)
        for name, call in {
            "unet": lambda: unet.predict(x, t, condition),
            "autoencoder": lambda: encoders.vae.encode(torch.empty(1, 3, size, size, device=device)),
            "text": lambda: encoders.encode_text(tokens),
        }.items():
            with FlopCounterMode(display=False) as counter:
                call()
            found[name] = counter.get_total_flops()
    return {name: value / found["unet"] for name, value in found.items() if name != "unet"}


def source_of(family: str, shape: dict[str, Any]) -> Source:
    source = Drawn("drawn", FAMILIES[family])
    configs = {"unet": shape["unet"], "vae": shape["vae"], "scheduler": SCHEDULE}
    object.__setattr__(source, "configs", configs)
    return source


def published_step(
    student: LatentDenoiser, teacher: LatentDenoiser, clean: Tensor, condition: Condition, draw: Draw
) -> Tensor:
    """Two networks, and a pass of the teacher for each of condition and no condition on every row."""
    x = student.levels.noised(clean, draw.noise, draw.start)
    empty = student.empty(condition)
    condition = {
        name: torch.where(draw.dropped.view(-1, *(1,) * (value.dim() - 1)), empty[name], value)
        for name, value in condition.items()
    }
    output = student.predict(x, draw.start, condition)
    jumped = jump(student, output, x, draw.start, draw.target)
    with torch.no_grad():
        conditioned = teacher.predict(x, draw.start, condition)
        without = teacher.predict(x, draw.start, empty)
        strength = GUIDANCE * (~draw.dropped).float().view(-1, 1, 1, 1)
        guided = conditioned + strength * (conditioned - without)
        nearer = jump(student, guided, x, draw.start, draw.before)
        output = student.predict(nearer, draw.before, condition)
        target = jump(student, output, nearer, draw.before, draw.target)
    return pseudo_huber(jumped, target, 1e-3)


def alternate(
    steps: dict[str, Callable[[int], float]], device: torch.device, repeats: int
) -> dict[str, tuple[float, float]]:
    """Return the median seconds of each step and its mean loss; the steps take turns."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    times: dict[str, list[float]] = {name: [] for name in steps}
    losses: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(repeats + 1):  # the first turn warms up
        for name, step in steps.items():
            start = clock()
            losses[name].append(step(number))
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            times[name].append(clock() - start)
    return {
        name: (sorted(times[name][1:])[repeats // 2], sum(losses[name]) / (repeats + 1)) for name in steps
    }


def operations(step: Callable[[int], float]) -> float:
    """Count the floating-point operations of a step, forwards and backwards."""
    with FlopCounterMode(display=False) as counter:
        step(0)
    return float(counter.get_total_flops())


def draw_of(targets: Targets, shape: tuple[int, ...], number: int, device: torch.device) -> Draw:
    generator = torch.Generator(device).manual_seed(number)
    starts = targets.draw_starts(shape[0], generator)
    dropped = torch.arange(shape[0], device=device) % 5 == number % 5  # exactly rho = 0.2 of all rows
    noise = torch.randn(shape, generator=generator, device=device)
    target = targets.draw(starts, generator)
    return Draw(targets.grid[starts], targets.before[starts], target, noise, dropped)


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--family", choices=list(FULL), default="sdxl")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="bfloat16")
    parser.add_argument("--full", action="store_true", help="the family's own size and pictures")
    parser.add_argument("--rows", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    quiet_libraries()
    device, dtype = torch.device(options.device), getattr(torch, options.precision)
    shape = (FULL if options.full else SMALL)[options.family]
    unet, size, rank = shape["unet"], shape["size"], 64 if options.full else 16
    source = source_of(options.family, shape)
    targets = Targets.from_settings(TargetSettings(), device)
    pictures = torch.rand(options.rows, 3, size, size, device=device) * 2 - 1
    tokens = torch.randint(49407, (options.rows, 77), device=device)
    encoders = Encoders(shape, dtype, device)
    latents, condition = encoders(pictures, tokens)
    nothing = {name: torch.zeros_like(value[:1]) for name, value in condition.items()}

    def timed(model: LatentDenoiser, loss_of: Callable[[Draw], Tensor]) -> Callable[[int], float]:
        optimizer = torch.optim.AdamW(model.trainable().values(), 1e-5, fused=True)

        def step(number: int) -> float:
            context: AbstractContextManager[None] = autocast(device, options.precision)
            with context:
                loss = loss_of(draw_of(targets, tuple(latents.shape), number, device))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            return float(loss.detach())

        return step

    model = student_of(make_unet(unet, dtype, device), source, size, nothing, rank, lean=True)
    theirs = make_unet(unet, torch.float32, device)
    student = student_of(theirs, source, size, nothing, rank, lean=False)
    teacher = LatentDenoiser(source, make_unet(unet, torch.float32, device), size, nothing)

    def loss_here(drawn: Draw) -> Tensor:
        return distillation_loss(model, latents, condition, drawn, guidance=GUIDANCE, huber=1e-3)

    def loss_published(drawn: Draw) -> Tensor:
        return published_step(student, teacher, *encoders(pictures, tokens), drawn)

    steps = {"published": timed(student, loss_published), "here": timed(model, loss_here)}
    counted = {name: operations(step) for name, step in steps.items()}
    found = alternate(steps, device, options.repeats)
    (published, loss_published_step), (here, loss) = found["published"], found["here"]
    kind = options.family + ("" if options.full else " scaled down")
    print(describe_machine(kind, f"{size} pixels", f"{options.rows} rows", device=device))
    for name, one in {"at its own size": FULL[options.family], "as timed": shape}.items():
        parts = ", ".join(f"{part} {share:.2f}" for part, share in work(options.family, one).items())
        print(f"work of the encoders {name}, a pass of the UNet being 1: {parts}")
    print(f"{options.precision}: published step {published:.3f} s, this step {here:.3f} s")
    print(f"{counted['published'] / counted['here']:.2f} times fewer operations, counted")
    print(
        f"{published / here:.2f} times faster; goal 1.3; mean losses {loss_published_step:.4f} and {loss:.4f}"
    )
    if not options.full and device.type == "cpu":
        figures = Figures(options.record)
        record_step(figures, options, kind, published / here, counted["published"] / counted["here"])


def record_step(figures: Figures, options: Namespace, kind: str, faster: float, fewer: float) -> None:
    name, about = f"distill.step.{options.family}", f"against the published step, {kind}"
    what = f"step time {about}, {options.precision}"
    figures.add(f"{name}.{options.precision}", faster, what=what, unit="times", goal=">= 1.3")
    figures.add(f"{name}.operations", fewer, what=f"operations {about}", unit="times")


if __name__ == "__main__":
    main()
