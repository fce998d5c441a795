"""Settings of the landmarks engine; importing them loads no torch."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from mmtoolkit.core.config import Settings

Count = Annotated[int, Field(ge=1)]
Number = Annotated[int, Field(ge=0)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Probability = Annotated[float, Field(ge=0, le=1)]

RESUMABLE = ("train.stop_after", "train.checkpoint_every", "data.path", "data.validation", "device")
"""Settings that may change when a run is resumed: they do not change what an epoch computes."""


class DataSettings(Settings):
    """What to learn from."""

    path: tuple[Path, ...] = ()
    """Data sets of photographs: JD or LaPa folders or zips, folders of `.pts`, WFLW lists, COCO files."""
    validation: tuple[Path, ...] = ()
    """Data sets to validate on; empty: a share of the photographs, or rendered faces where there are none."""
    holdout: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Share of the photographs that is kept for validation where no set is named."""
    rendered: Number = 2000
    """Faces rendered for training."""
    rendered_validation: Number = 200
    """Faces rendered for validation where there are no photographs."""
    rendered_share: Probability = 0.5
    """Share of rendered faces in a batch, where there are photographs too."""
    pose_balance: Probability = 0.5
    """0 draws every face alike, 1 draws every 15 degrees of yaw alike, between them in between."""

    @field_validator("path", "validation")
    @classmethod
    def _absolute(cls, value: tuple[Path, ...]) -> tuple[Path, ...]:
        """Let a run be found again from another working folder."""
        return tuple(path.absolute() for path in value)

    @field_validator("path", "validation", mode="before")
    @classmethod
    def _one_or_many(cls, value: object) -> object:
        """Take a single path where a list is meant."""
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
    """Side of the square that the network sees, over the longer side of the box."""
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
    """Random changes of the training pictures, drawn for each face anew."""

    box_jitter: Weight = 1.0
    """Spread of the boxes, over that of the challenge's detector."""
    rotation: Annotated[float, Field(ge=0, le=180)] = 30.0
    """Largest turn in degrees."""
    stretch: Weight = 0.05
    """Spread of the ratio of width to height, by which faces become longer or wider ones."""
    flip: Probability = 0.5
    """Share of mirrored faces."""
    colour: Weight = 0.2
    """Spread of brightness, contrast and each channel's gain."""
    grey: Probability = 0.1
    """Share of grey pictures."""
    blur: Probability = 0.15
    """Share of blurred pictures."""
    low_resolution: Probability = 0.2
    """Share of pictures scaled down to a half or a sixth, and up again."""
    occlusion: Probability = 0.3
    """Share of pictures with a rectangle of colour or of another face in front."""
    border: Probability = 0.0
    """Share of pictures that end in black across one side, as many of the challenge's do; labels stay."""
    noise: Weight = 0.02
    """Largest standard deviation of pixel noise, over the full range."""


class LossSettings(Settings):
    """What is minimised; distances are in hundredths of the crop's side."""

    points: Literal["l1", "wing", "smooth_wing"] = "smooth_wing"
    """Loss of the coordinates; l1 on a mean of a distribution is the integral loss."""
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

    start: Path | None = None
    """Run or checkpoint whose weights to start from, of the same network; none: from nothing."""
    pretrained: Literal["none", "efficientnet-lite0"] = "none"
    """ImageNet weights to start the backbone from; its stages must be theirs (extra `encoders`)."""
    frozen: Number = 0
    """First stages that keep the weights that they start with, the stem being the first."""
    epochs: Count = 60
    """Epochs; the learning rate falls to zero along them."""
    stop_after: Number = 0
    """Stop after this many epochs of the plan, to be resumed later; 0: run them all."""
    faces_per_epoch: Number = 0
    """Faces drawn in an epoch; 0: as many as there are."""
    batch_size: Count = 64
    """Faces in a step, over all processes."""
    learning_rate: Positive = 2e-3
    """AdamW's largest step size."""
    weight_decay: Weight = 1e-4
    """AdamW's decay of the weights."""
    warmup: Probability = 0.05
    """Share of the steps in which the learning rate rises."""
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.998
    """Decay of the averaged weights, which are validated and kept; 0: no average."""
    gradient_clip: Positive = 5.0
    """Largest norm of the gradient."""
    checkpoint_every: Count = 1
    """Epochs between checkpoints; a better epoch is always kept."""

    @field_validator("start")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        """Let a run be resumed from another working folder."""
        return value and value.absolute()

    @model_validator(mode="after")
    def _frozen_stages_know_something(self) -> Self:
        if self.frozen and self.start is None and self.pretrained == "none":
            raise ValueError(
                "train.frozen keeps stages that know nothing; set train.pretrained or train.start"
            )
        return self


class LandmarkSettings(Settings):
    """All settings of `mmtk landmarks`."""

    seed: Number = 0
    """Seed of every random draw."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Precision of the network's products while training; weights stay float32."""
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
