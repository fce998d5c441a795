"""Settings of the landmarks engine; importing them loads no torch."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from mmtoolkit.core.config import ReadBy, Settings
from mmtoolkit.core.fields import (
    AbsolutePath,
    Count,
    DeviceName,
    Fraction,
    Natural,
    Positive,
    Probability,
    Weight,
)

RESUMABLE = ("train.stop_after", "train.checkpoint_every", "data.path", "data.validation", "device")
"""Settings that may change when a run is resumed: they do not change what an epoch computes."""
READ_BY: ReadBy = {
    "data.holdout": ("data.validation", ([],)),
    "data.rendered_validation": ("data.validation", ([],)),
    "model.stem": ("model.kind", ("mobile",)),
    "model.stages": ("model.kind", ("mobile",)),
    "model.activation": ("model.kind", ("mobile",)),
    "model.head": ("model.kind", ("mobile",)),
    "model.head_width": ("model.head", ("simcc",)),
    "model.bin": ("model.kind", ("mobile",)),
    "model.bins": ("model.head", ("simcc",)),
    "model.modules": ("model.kind", ("fan",)),
    "loss.wing_": ("loss.points", ("wing", "smooth_wing")),
    "loss.simcc": ("model.kind", ("mobile",)),
    "loss.simcc_": ("model.head", ("simcc",)),
    "loss.heatmap_weight": ("model.kind", ("fan",)),
    "train.frozen": ("model.kind", ("mobile",)),
}
"""When a setting has an effect, by the beginning of its name; see :data:`mmtoolkit.core.config.ReadBy`.

`model.bin` and `loss.simcc` are there for a second condition on the same settings.
"""


class DataSettings(Settings):
    """What to learn from."""

    path: tuple[AbsolutePath, ...] = ()
    """Data sets of photographs: JD or LaPa folders or zips, folders of `.pts`, WFLW lists, COCO files."""
    validation: tuple[AbsolutePath, ...] = ()
    """Data sets to validate on; empty: a share of the photographs, or rendered faces without photographs."""
    holdout: Fraction = 0.05
    """Share of the photographs that is kept for validation if `data.validation` is empty."""
    rendered: Natural = 2000
    """Number of faces rendered for training."""
    rendered_validation: Natural = 200
    """Number of faces rendered for validation if there are no photographs."""
    rendered_share: Probability = 0.5
    """Share of rendered faces in a batch, if there are photographs too."""
    pose_balance: Probability = 0.5
    """0 draws all faces equally often, 1 all bins of 15 degrees of yaw; values between them interpolate."""

    @field_validator("path", "validation", mode="before")
    @classmethod
    def _one_or_many(cls, value: object) -> object:
        """Accept a single path instead of a list."""
        return (value,) if isinstance(value, str | Path) else value


class StageSettings(Settings):
    """Some blocks of the backbone at one resolution."""

    block: Literal["fused", "mobile"] = "fused"
    """fused: convolution and projection; mobile: expansion, depthwise convolution and projection."""
    channels: Count
    """Width of the stage."""
    expansion: Count = 2
    """Factor on the width inside a block; a mobile block of 1 has no expansion."""
    kernel: Literal[3, 5] = 3
    """Side of the convolution."""
    blocks: Count = 2
    """Number of blocks."""
    stride: Literal[1, 2] = 2
    """Step of the first block."""


class ModelSettings(Settings):
    """The network: a backbone and a head, or face-alignment's FAN."""

    kind: Literal["mobile", "fan"] = "mobile"
    """mobile: the stages below; fan: FAN of face-alignment with 106 channels."""
    size: Annotated[int, Field(ge=32, multiple_of=16)] = 112
    """Side of the input in pixels."""
    stem: Count = 16
    """Channels of the first convolution, which halves the resolution."""
    stages: tuple[StageSettings, ...] = (
        StageSettings(channels=24, blocks=1),
        StageSettings(channels=48, blocks=2),
        StageSettings(channels=96, blocks=2),
    )
    """Stages of the backbone."""
    activation: Literal["relu", "relu6"] = "relu"
    """relu6 is cut off at 6, as in EfficientNet-Lite."""
    head: Literal["simcc", "integral"] = "simcc"
    """simcc: a distribution over columns and one over rows; integral: the mean of a heatmap (soft-argmax)."""
    head_width: Count = 192
    """Width of a point's features in the simcc head."""
    bins: Annotated[int, Field(ge=8)] = 224
    """Columns and rows of the simcc head."""
    box_scale: Positive = 1.0
    """Side of the square that the network sees, divided by the longer side of the box."""
    modules: Count = 1
    """Hourglasses of FAN."""

    @model_validator(mode="after")
    def _stages_fit(self) -> Self:
        halvings = 1 + sum(stage.stride == 2 for stage in self.stages)
        if self.kind == "mobile" and self.size % 2**halvings:
            raise ValueError(
                f"model.size {self.size} must be a multiple of {2**halvings} (its stages halve it)"
            )
        if self.kind == "fan" and self.size % 64:
            raise ValueError(f"model.size {self.size} must be a multiple of 64 for FAN; use 256")
        return self


class AugmentSettings(Settings):
    """Random changes of the training pictures, drawn for each face in each batch."""

    box_jitter: Weight = 1.0
    """Spread of the boxes, relative to that of the challenge's detector."""
    rotation: Annotated[float, Field(ge=0, le=180)] = 30.0
    """Largest rotation in degrees."""
    stretch: Weight = 0.05
    """Spread of the aspect ratio, which makes faces longer or wider."""
    flip: Probability = 0.5
    """Share of mirrored faces."""
    colour: Weight = 0.2
    """Spread of brightness, contrast and the gain of each channel."""
    grey: Probability = 0.1
    """Share of grey pictures."""
    blur: Probability = 0.15
    """Share of blurred pictures."""
    low_resolution: Probability = 0.2
    """Share of pictures that are scaled down by a factor of 2 to 6 and up again."""
    occlusion: Probability = 0.3
    """Share of pictures with a rectangle of one colour or of another face in front."""
    border: Probability = 0.0
    """Share of pictures with a black border on one side, as in the challenge's data; labels stay."""
    noise: Weight = 0.02
    """Largest standard deviation of the pixel noise, as a share of the full range."""


class LossSettings(Settings):
    """What is minimised; distances are in hundredths of the crop's side."""

    points: Literal["l1", "wing", "smooth_wing"] = "smooth_wing"
    """Loss of the coordinates; l1 on the mean of a distribution is the integral loss."""
    points_weight: Weight = 1.0
    """Its weight."""
    wing_width: Positive = 4.0
    """Distance at which wing losses become straight lines."""
    wing_curvature: Positive = 0.5
    """Distance that sets how steep wing losses are near zero."""
    simcc_weight: Weight = 1.0
    """Weight of the divergence between the simcc head and Gaussians around the truth."""
    simcc_sigma: Positive = 1.0
    """Standard deviation of those Gaussians."""
    heatmap_weight: Weight = 1.0
    """Weight of the adaptive wing loss on FAN's heatmaps."""


class TrainSettings(Settings):
    """The optimisation."""

    start: AbsolutePath | None = None
    """Run or checkpoint of the same network whose weights to start from; none: random weights."""
    pretrained: Literal["none", "efficientnet-lite0"] = "none"
    """ImageNet weights for the backbone, which must have the same stages (extra `encoders`)."""
    frozen: Natural = 0
    """Number of first stages whose weights stay fixed; the stem counts as the first."""
    epochs: Count = 60
    """Epochs; the learning rate falls to zero over them."""
    stop_after: Natural = 0
    """Stop after this many epochs, to be resumed later; 0: run all epochs."""
    faces_per_epoch: Natural = 0
    """Faces drawn in an epoch; 0: as many as the training set has."""
    batch_size: Count = 64
    """Faces in a step, over all processes."""
    learning_rate: Positive = 2e-3
    """AdamW's largest step size."""
    weight_decay: Weight = 1e-4
    """AdamW's decay of the weights."""
    warmup: Natural = 100
    """First steps, over which the learning rate rises linearly; 0: it starts at its largest value."""
    ema: Fraction = 0.998
    """Decay of the averaged weights, which are validated and saved; 0: no average."""
    gradient_clip: Positive = 5.0
    """Largest norm of the gradient."""
    checkpoint_every: Count = 1
    """Epochs between checkpoints; the best epoch is always saved."""

    @model_validator(mode="after")
    def _frozen_stages_are_trained(self) -> Self:
        if self.frozen and self.start is None and self.pretrained == "none":
            raise ValueError("train.frozen would keep random weights; set train.pretrained or train.start")
        return self


class LandmarkSettings(Settings):
    """All settings of `mmtk landmarks`."""

    seed: Natural = 0
    """Seed of every random draw."""
    device: DeviceName = "auto"
    """Where to compute."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Precision of matrix products while training; the weights stay float32."""
    data: DataSettings = DataSettings()
    model: ModelSettings = ModelSettings()
    augment: AugmentSettings = AugmentSettings()
    loss: LossSettings = LossSettings()
    train: TrainSettings = TrainSettings()

    @model_validator(mode="after")
    def _something_to_learn_from(self) -> Self:
        if not self.data.path and not self.data.rendered:
            raise ValueError("nothing to learn from: name data.path or set data.rendered above 0")
        return self
