"""Settings of the distill engine; importing them loads no torch."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from mmtoolkit.core.config import ReadBy, Settings
from mmtoolkit.core.fields import Count, DeviceName, Fraction, Natural, Positive, Probability, Weight

SHAPES = "shapes"
"""Name of the embedded picture set, and of the teacher and the student that ship for it."""
RESUMABLE = (
    "train.steps",
    "train.checkpoint_every",
    "train.sample_every",
    "teach.steps",
    "teach.checkpoint_every",
    "teach.sample_every",
    "data.path",
    "device",
    "evaluate.samples",
    "evaluate.steps",
    "evaluate.eta",
    "evaluate.guidance",
    "evaluate.damped",
    "evaluate.features",
    "evaluate.clip",
    "evaluate.batch_size",
)
"""Settings that may change when a run is resumed: they do not change what a step computes.

With a cooldown the number of steps does, as it says when the rate begins to fall: a run that is made longer
then differs from one that was longer from the beginning.
"""


_TEACH, _STUDENT = ("teach",), ("train", "compare")
_LATENT = ("sd15", "sdxl", "sd3", "flux")
READ_BY: ReadBy = {
    "network.": ("command", _TEACH),
    "teach.": ("command", _TEACH),
    "model.": ("command", (*_STUDENT, "cache")),
    "targets.": ("command", _STUDENT),
    "train.": ("command", _STUDENT),
    "evaluate.": ("command", ("compare",)),
    "model.layout": ("model.family", _LATENT),
    "model.embedded_guidance": ("model.family", _LATENT),
    "model.rank": ("model.adapter", ("lora",)),
    "model.alpha": ("model.adapter", ("lora",)),
    "targets.window": ("targets.rule", ("tdd",)),
    "targets.steps_m": ("targets.rule", ("tdd",)),
    "targets.phases": ("targets.rule", ("pcm",)),
    "targets.eta": ("targets.rule", ("tdd",)),
}
"""Settings that a command or a choice does not read; see :data:`~mmtoolkit.core.config.ReadBy`.

`compare` varies `targets.rule`, so settings of one rule may count there under another name; `eval` takes
only `evaluate.*`, and refuses the others.
"""


class DataSettings(Settings):
    """What to learn from."""

    path: Path | None = None
    """Folder of pictures, `.npz`, webdataset `.tar` (or a folder of them), a cache folder, or `shapes`."""
    condition: Literal["auto", "caption", "class", "none"] = "auto"
    """What comes with a picture; `auto` takes captions if there are any, then classes."""
    size: Annotated[int, Field(ge=8, multiple_of=8)] | None = None
    """Side of the square pictures in pixels (the centre of each picture is kept); none: the model's own."""
    flip: bool = False
    """Mirror half of the pictures from left to right."""

    @field_validator("path")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        """Let a run be found again from another working folder."""
        return value if value is None or str(value) == SHAPES else value.absolute()


class ModelSettings(Settings):
    """The teacher, and what of it the student may change."""

    family: Literal["pixel", "sd15", "sdxl", "sd3", "flux"] = "pixel"
    """Kind of the base model."""
    base: str = SHAPES
    """The teacher: a run of `distill teach`, a pipeline's folder, a single file, a hub id, or `shapes`."""
    layout: str | None = None
    """For a single file: folder or hub id whose configuration and tokenizers it uses."""
    embedded_guidance: Positive = 3.5
    """Guidance given to networks that take it as an input (FLUX.1-dev); 3.5 is the pipeline's own."""
    adapter: Literal["lora", "full"] = "lora"
    """Train a LoRA beside the frozen weights, or all weights."""
    rank: Count = 64
    """Rank of the LoRA."""
    alpha: Positive | None = None
    """Scale of the LoRA, divided by its rank; none: the rank, so that it acts at scale 1."""
    checkpointing: bool = False
    """Recompute activations on the way back: less memory, about a third more time."""

    @field_validator("base", "layout")
    @classmethod
    def _absolute(cls, value: str | None) -> str | None:
        """Let a run find its base from another working folder."""
        return str(Path(value).absolute()) if value and value != SHAPES and Path(value).exists() else value


class TargetSettings(Settings):
    """Which jump the student learns, and with what guidance."""

    rule: Literal["tdd", "pcm", "tcd", "lcm"] = "tdd"
    """How the target timestep is drawn."""
    window: Literal["schedule", "paper", "published"] = "schedule"
    """Candidates of `tdd`: next point of each schedule, the paper's interval, or the published code's."""
    steps_min: Count = 4
    """Fewest sampling steps K_min whose schedules are targets."""
    steps_max: Count = 8
    """Most sampling steps K_max."""
    phases: Count = 4
    """Phases of `pcm`."""
    training_steps: Annotated[int, Field(ge=2, le=1000)] = 250
    """Grid points N among the 1000 timesteps."""
    eta: Fraction = 0.0
    """Largest stochastic offset: tau becomes floor((1 - eta) tau), eta drawn up to this (paper: 0.3)."""
    eta_zero: Probability = 0.0
    """Share of the draws that keep their target exactly (eta = 0)."""
    guidance: Weight = 3.5
    """Strength w of the teacher's guidance; the usual guidance scale is 1 + w."""
    drop: Probability = 0.2
    """Share rho of the rows that lose their condition and their guidance (decoupled guidance)."""
    huber: Positive = 1e-3
    """Constant c of the pseudo-Huber loss."""
    averaged: bool = False
    """Let the averaged weights (`train.ema`) compute the target, as they always do for `lcm`."""

    @model_validator(mode="after")
    def _schedules_are_possible(self) -> Self:
        if self.steps_max < self.steps_min:
            raise ValueError("targets.steps_max must not lie below targets.steps_min")
        if max(self.steps_max, self.phases) > self.training_steps:
            raise ValueError("targets.steps_max and targets.phases must not exceed targets.training_steps")
        if self.eta_zero and not self.eta:
            raise ValueError("targets.eta_zero is the share without an offset; set targets.eta above 0 too")
        return self


class TrainSettings(Settings):
    """Training of the student."""

    steps: Count = 2000
    """Optimizer steps."""
    batch_size: Count = 16
    """Pictures in an optimizer step, over all processes and accumulated parts."""
    accumulation: Count = 1
    """Parts that a batch is computed in, one after the other, to save memory."""
    learning_rate: Positive = 1e-4
    """Adam's step size after the warm-up."""
    warmup: Natural = 100
    """Steps over which the step size rises from 0."""
    cooldown: Natural = 0
    """Last steps, over which it falls to 0."""
    weight_decay: Weight = 0.0
    """AdamW's weight decay."""
    clip: Positive = 1.0
    """Largest norm of the gradient."""
    optimizer: Literal["adamw", "adamw8bit"] = "adamw"
    """`adamw8bit` needs CUDA and bitsandbytes."""
    ema: Fraction = 0.95
    """Decay of the averaged weights, which are what is saved for use; 0 saves the last ones."""
    checkpoint_every: Count = 500
    """Steps between checkpoints."""
    sample_every: Natural = 500
    """Steps between grids of samples at 2, 4 and 8 steps; 0 draws none."""

    @model_validator(mode="after")
    def _parts_are_even(self) -> Self:
        if self.batch_size % self.accumulation:
            raise ValueError("train.batch_size must be a multiple of train.accumulation")
        return self


class NetworkSettings(Settings):
    """The UNet of a pixel-space teacher."""

    channels: tuple[Annotated[int, Field(ge=8, multiple_of=8)], ...] = (64, 96, 128)
    """Width at each resolution, each half of the one before."""
    layers: Count = 1
    """Residual blocks a resolution."""
    patch: Literal[1, 2, 4] = 2
    """Side of the squares of pixels that become channels before the UNet."""
    attention_from: Natural = 1
    """First resolution (0 is the finest) with attention."""
    text_width: Annotated[int, Field(ge=8, multiple_of=8)] = 64
    """Width of a caption's tokens."""
    prediction: Literal["epsilon", "v_prediction", "sample"] = "v_prediction"
    """What the network puts out; `sample` learns flat pictures fastest."""


class TeachSettings(Settings):
    """Training of a pixel-space teacher."""

    steps: Count = 6000
    """Optimizer steps."""
    batch_size: Count = 64
    """Pictures in a step, over all processes."""
    learning_rate: Positive = 1e-3
    """Adam's step size after the warm-up."""
    warmup: Natural = 200
    """Steps over which the step size rises from 0."""
    cooldown: Natural = 1000
    """Last steps, over which it falls to 0."""
    drop: Probability = 0.1
    """Share of the rows that lose their condition, for guidance."""
    ema: Fraction = 0.999
    """Decay of the averaged weights, which are the teacher."""
    clip: Positive = 1.0
    """Largest norm of the gradient."""
    checkpoint_every: Count = 500
    """Steps between checkpoints."""
    sample_every: Natural = 1000
    """Steps between grids of samples; 0 draws none."""


class EvaluateSettings(Settings):
    """Judging a student against its teacher, from the same noise and conditions."""

    samples: Annotated[int, Field(ge=8)] = 1024
    """Pictures drawn for each setting."""
    steps: tuple[Count, ...] = (1, 2, 4, 6, 8)
    """Numbers of sampling steps."""
    eta: tuple[Probability, ...] = (0.0, 0.3)
    """Stochastic offsets of the sampler."""
    guidance: tuple[Positive, ...] = (1.0, 2.0)
    """Guidance as multiples of what the student was trained with, 1 + w."""
    damped: bool = True
    """Weaken guidance above that over long jumps, as `sample` does; false extrapolates at full strength."""
    features: str = "own"
    """Features of FID and KID: `inception`, `own` (learned from the data), or a TorchScript file."""
    clip: str | None = None
    """Folder or hub id of a CLIP, which then says how well pictures fit their texts; none: not measured."""
    batch_size: Count = 128
    """Pictures drawn at once."""
    seed: Natural = 1234
    """Seed of the noise, the same for all students."""


class DistillSettings(Settings):
    """All settings of `mmtk distill`: by command: network and teach; model, targets and train; evaluate."""

    seed: Natural = 0
    """Seed of every random draw."""
    device: DeviceName = "auto"
    """Where to compute."""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of frozen weights and of products; what is trained stays float32."""
    data: DataSettings = DataSettings()
    network: NetworkSettings = NetworkSettings()
    teach: TeachSettings = TeachSettings()
    model: ModelSettings = ModelSettings()
    targets: TargetSettings = TargetSettings()
    train: TrainSettings = TrainSettings()
    evaluate: EvaluateSettings = EvaluateSettings()

    @model_validator(mode="after")
    def _an_average_is_kept(self) -> Self:
        if self.targets.averaged and not self.train.ema:
            raise ValueError("targets.averaged needs an average; set train.ema above 0")
        return self
