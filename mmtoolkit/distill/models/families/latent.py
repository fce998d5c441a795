"""The denoiser of a latent family: frozen base weights, and a LoRA or a trained copy."""

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mmtoolkit.distill.config import DistillSettings, ModelSettings
from mmtoolkit.distill.models.denoiser import Condition, Levels, Prediction
from mmtoolkit.distill.models.families.autoencoder import Autoencoder
from mmtoolkit.distill.models.families.family import Family
from mmtoolkit.distill.models.families.source import Source
from mmtoolkit.distill.models.lora import add_lora, layer_shapes


class LatentDenoiser:
    """A latent diffusion model of any family, as a :class:`~mmtoolkit.distill.models.denoiser.Denoiser`.

    Attributes:
        source: the checkpoint.
        family: family of the checkpoint.
        network: the network that `predict` calls; Accelerate may wrap it.
        own: the same network, unwrapped.
        autoencoder: converts pictures to latents and back.
    """

    def __init__(
        self, source: Source, network: nn.Module, size: int, no_prompt: Condition, guidance: float = 3.5
    ) -> None:
        """Read the noise levels and the shape of the latents from the checkpoint's configuration.

        Args:
            source: the checkpoint.
            network: its denoiser, on the device to use.
            size: side of the pictures in pixels.
            no_prompt: condition of one row without a prompt, as the pipeline encodes it.
            guidance: input of networks that were distilled with guidance (FLUX.1-dev).
        """
        device = next(network.parameters()).device
        self.source = source
        self.family: Family = source.family
        self.network = self.own = network
        self.autoencoder = Autoencoder(source, size)
        self.shape: tuple[int, ...] = self.autoencoder.shape
        levels, self.prediction = noise_levels(source, self.shape)
        self.levels = levels.to(device)
        self._no_prompt = no_prompt
        self._constants = {
            # original size, crop and target size, as SDXL's pipeline passes them for a square picture
            "time_ids": torch.tensor([[size, size, 0, 0, size, size]], dtype=torch.float32, device=device),
            "guidance": torch.tensor([guidance], dtype=torch.float32, device=device),
        }
        self._copy: nn.Module | None = None
        self._dtype = next(network.parameters()).dtype

    def adapt(self, settings: ModelSettings) -> None:
        """Add a LoRA to the frozen weights, or train all weights in float32 beside a frozen copy."""
        own: Any = self.own
        if settings.checkpointing:
            own.enable_gradient_checkpointing()
        if settings.adapter == "full":
            # only here are there two copies; with a LoRA the teacher is the network without its adapter
            self._copy = copy.deepcopy(self.own)
            own.float().requires_grad_(True)
            return
        ranks = lora_ranks(own, self.family, settings.rank)
        scale = 1.0 if settings.alpha is None else settings.alpha / settings.rank
        add_lora(own, ranks, {name: scale * rank for name, rank in ranks.items()})

    def predict(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Run the network on x `(rows, *shape)` at timesteps t `(rows,)` in 0..999; return the shape of x."""
        # expand makes views: one stored row serves every batch size
        constants = {name: value.expand(len(x), *value.shape[1:]) for name, value in self._constants.items()}
        inputs = x.to(self._dtype)
        arguments = self.family.arguments(inputs, self.levels.times[t], condition | constants)
        output = self.network(**arguments, return_dict=False)[0]
        return self.family.unpack(output, x.shape).to(x.dtype)

    def empty(self, condition: Condition) -> Condition:
        """Return the condition of no prompt for as many rows, exactly as the sampling pipeline encodes it."""
        return {name: self._no_prompt[name].to(rows).expand_as(rows) for name, rows in condition.items()}

    @contextmanager
    def teacher(self) -> Iterator[None]:
        """Make `predict` the frozen teacher inside a `with` block: the LoRA off, or the frozen copy."""
        student, own = self.network, self._adapted()
        try:
            if own is None:
                self.network = self._copy or student
            else:
                own.disable_adapters()
            yield
        finally:
            self.network = student
            if own is not None:
                own.enable_adapters()

    def _adapted(self) -> Any:
        """Return the network if it has a LoRA, otherwise None."""
        return self.own if getattr(self.own, "_hf_peft_config_loaded", False) else None

    def trainable(self) -> dict[str, nn.Parameter]:
        """Return the trainable parameters by their names in files, such as `unet.conv_in.lora_A.weight`."""
        adapted = self._adapted() is not None
        return {
            f"{self.family.part}.{name.replace('.default.', '.')}": parameter
            for name, parameter in self.own.named_parameters()
            if not adapted or ".lora_" in name
        }

    def decode(self, x: Tensor) -> Tensor:
        """Decode latents `(rows, *shape)` to pictures `(rows, 3, height, width)` in [-1, 1]."""
        return self.autoencoder.decode(x)


def lora_ranks(network: nn.Module, family: Family, rank: int) -> dict[str, int]:
    """Return the rank of each layer that gets the LoRA: `rank`, or the layer's full rank if that is less."""
    shapes = {name: shape for name, shape in layer_shapes(network).items() if family.adapted.fullmatch(name)}
    return {name: min(rank, *shape[:2]) for name, shape in shapes.items()}


def noise_levels(source: Source, shape: Sequence[int]) -> tuple[Levels, Prediction]:
    """Return the noise levels of the checkpoint's own scheduler, and what its network predicts.

    Args:
        source: the checkpoint.
        shape: shape of one latent, `(channels, height, width)`; FLUX's shift depends on the number of tokens.
    """
    from diffusers import DDPMScheduler

    config = source.config("scheduler")
    if source.family.flow:
        # a token is a 2 x 2 square of latents
        return Levels.flow(flow_shift(config, shape[1] // 2 * (shape[2] // 2))), "flow"
    alphas_cumprod = DDPMScheduler.from_config(config).alphas_cumprod
    return Levels.from_alphas_cumprod(alphas_cumprod), config.get("prediction_type", "epsilon")


def flow_shift(config: Mapping[str, Any], tokens: int) -> float:
    """Return a flow scheduler's shift (arXiv 2403.03206, eq. 23).

    With `use_dynamic_shifting` it is exp(mu), where mu is linear in the number of tokens, as in the
    pipelines: a larger picture needs more noise to hide the same detail.

    Args:
        config: configuration of the scheduler.
        tokens: number of tokens of a picture.
    """
    if not config.get("use_dynamic_shifting"):
        return float(config.get("shift", 1.0))
    short, long = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    low, high = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    return math.exp(low + (high - low) * (tokens - short) / (long - short))


def load_latent(
    settings: DistillSettings, size: int, no_prompt: Condition, device: torch.device
) -> LatentDenoiser:
    """Load the denoiser of a latent base, frozen, without its text encoders.

    Args:
        settings: `model` and `precision` are used.
        size: side of the pictures in pixels.
        no_prompt: condition of one row without a prompt, see :func:`encode_prompts`.
        device: device to compute on.

    Raises:
        CheckpointError: if the base cannot be loaded.
        ConfigError: if it is of another family.
    """
    model = settings.model
    source = Source.open(model.base, model.family, model.layout)
    network = source.network(getattr(torch, settings.precision)).to(device)
    return LatentDenoiser(source, network, size, no_prompt, model.embedded_guidance)
