"""The networks: a small backbone with a SimCC or soft-argmax head, and face-alignment's FAN.

Every network takes pictures `(n, 3, size, size)` in [0, 255] RGB and returns :class:`Output`; points are
shares of the crop, 0 and 1 at its borders.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmtoolkit.landmarks.config import ModelSettings, StageSettings
from mmtoolkit.landmarks.data.points import COUNT

MARGIN = 0.1
"""How far beyond the crop's borders a point may be, as a share of its side."""


class Output(NamedTuple):
    """The output of a network.

    Attributes:
        points: `(n, 106, 2)` shares of the crop.
        scores: `(n, 106)` in [0, 1], confidence in each point.
        raw: further input of the loss: simcc logits `(n, 106, 2, bins)`, or FAN's heatmaps
            `(modules, n, 106, h, w)`, or nothing.
    """

    points: Tensor
    scores: Tensor
    raw: Tensor | None


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": lambda: nn.ReLU(inplace=True),
    "relu6": lambda: nn.ReLU6(inplace=True),
    "none": nn.Identity,
}


class ConvNorm(nn.Sequential):
    """Convolution, batch normalisation and an activation."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, act: str = "relu"
    ) -> None:
        """Build the layers; only the stride changes the size."""
        convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        super().__init__(convolution, nn.BatchNorm2d(outputs), ACTIVATIONS[act]())


class Block(nn.Module):
    """An inverted residual: MobileNetV2's (arXiv 1801.04381), or a fused one (arXiv 2104.00298)."""

    def __init__(self, inputs: int, stage: StageSettings, stride: int, act: str) -> None:
        """Build one block of a stage."""
        super().__init__()
        hidden, outputs, kernel = inputs * stage.expansion, stage.channels, stage.kernel
        layers = [ConvNorm(inputs, hidden, kernel, stride, act=act)]
        if stage.block == "mobile":
            layers = [ConvNorm(inputs, hidden, 1, act=act)] if stage.expansion > 1 else []
            layers.append(ConvNorm(hidden, hidden, kernel, stride, hidden, act))
        self.layers = nn.Sequential(*layers, ConvNorm(hidden, outputs, 1, act="none"))
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Transform `(n, channels, h, w)`."""
        y: Tensor = self.layers(x)
        return x + y if self.residual else y


class Backbone(nn.Module):
    """Stem and stages; returns the features of the last two resolutions."""

    def __init__(self, settings: ModelSettings) -> None:
        """Build the stages."""
        super().__init__()
        act = settings.activation
        self.stem = ConvNorm(3, settings.stem, 3, 2, act=act)
        self.stages = nn.ModuleList()
        self.widths, self.steps = [settings.stem], [2]
        for stage in settings.stages:
            blocks = [Block(self.widths[-1], stage, stage.stride, act)]
            blocks += [Block(stage.channels, stage, 1, act) for _ in range(stage.blocks - 1)]
            self.stages.append(nn.Sequential(*blocks))
            self.widths.append(stage.channels)
            self.steps.append(self.steps[-1] * stage.stride)
        finer = (number for number, step in enumerate(self.steps) if step < self.steps[-1])
        self.fine = max(finer, default=len(self.steps) - 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the last features at a finer resolution than the last stage's, and the last stage's."""
        found = [self.stem(x)]
        for stage in self.stages:
            found.append(stage(found[-1]))
        return found[self.fine], found[-1]


class SimCCHead(nn.Module):
    """Locate each point by a distribution over columns and one over rows (SimCC, arXiv 2107.03332).

    The features of the last two resolutions are joined; every point reads its own map of them, and a
    layer across points gives each point the features of the others.
    """

    def __init__(self, settings: ModelSettings, widths: tuple[int, int], side: int) -> None:
        """Build the head.

        Args:
            settings: settings of the model.
            widths: channels of the two feature maps.
            side: side of the finer one in pixels.
        """
        super().__init__()
        width = settings.head_width
        self.fine = nn.Conv2d(widths[0], COUNT, 1, bias=False)
        self.coarse = nn.Conv2d(widths[1], COUNT, 1)
        self.embed = nn.Linear(side * side, width)
        self.norm = nn.LayerNorm(width)
        self.across = nn.Sequential(nn.Linear(COUNT, COUNT), nn.ReLU(inplace=True), nn.Linear(COUNT, COUNT))
        self.bins = nn.Linear(width, 2 * settings.bins)
        centres = (torch.arange(settings.bins) + 0.5) / settings.bins
        self.register_buffer("centres", centres * (1 + 2 * MARGIN) - MARGIN, persistent=False)

    def forward(self, fine: Tensor, coarse: Tensor) -> Output:
        """Locate the points; see :class:`Output`."""
        maps = self.fine(fine)
        maps = maps + F.interpolate(self.coarse(coarse), size=maps.shape[-2:], mode="nearest")
        tokens = self.embed(maps.flatten(2))  # one vector per point, from its whole map
        mixed = self.across(self.norm(tokens).transpose(1, 2)).transpose(1, 2)
        logits = self.bins(F.relu(tokens + mixed)).unflatten(-1, (2, -1)).float()
        shares = logits.softmax(-1)
        scores = shares.amax(-1).prod(-1)
        # the mean of the distribution rather than its peak: finer than a bin, and differentiable
        return Output(shares @ self.centres, (scores / _SHARPEST).clamp(max=1.0), logits)


_SHARPEST = 0.16
"""Product of the largest shares in x and y for a point as sharp as its label (sigma 1): 0.4 squared."""


class IntegralHead(nn.Module):
    """Locate each point at the mean of its heatmap (soft-argmax, arXiv 1711.08229)."""

    def __init__(self, settings: ModelSettings, widths: tuple[int, int], side: int) -> None:
        """Build the head; see :class:`SimCCHead`."""
        super().__init__()
        del settings
        self.fine = nn.Conv2d(widths[0], COUNT, 1, bias=False)
        self.coarse = nn.Conv2d(widths[1], COUNT, 1)
        centres = (torch.arange(side) + 0.5) / side
        self.register_buffer("centres", centres * (1 + 2 * MARGIN) - MARGIN, persistent=False)

    def forward(self, fine: Tensor, coarse: Tensor) -> Output:
        """Locate the points; see :class:`Output`."""
        maps = self.fine(fine)
        maps = maps + F.interpolate(self.coarse(coarse), size=maps.shape[-2:], mode="nearest")
        shares = maps.float().flatten(2).softmax(-1).unflatten(-1, maps.shape[-2:])
        points = torch.stack([shares.sum(-2) @ self.centres, shares.sum(-1) @ self.centres], -1)
        return Output(points, shares.amax((-2, -1)), None)


class MobileNet(nn.Module):
    """Backbone and head of the `compact` and `accurate` presets."""

    def __init__(self, settings: ModelSettings) -> None:
        """Build the network."""
        super().__init__()
        self.backbone = Backbone(settings)
        fine = self.backbone.fine
        widths = (self.backbone.widths[fine], self.backbone.widths[-1])
        head = {"simcc": SimCCHead, "integral": IntegralHead}[settings.head]
        self.head = head(settings, widths, settings.size // self.backbone.steps[fine])

    def forward(self, images: Tensor) -> Output:
        """Locate the points in pictures `(n, 3, size, size)` in [0, 255]."""
        output: Output = self.head(*self.backbone((images - 127.5) / 127.5))
        return output


class FAN(nn.Module):
    """Face-alignment's FAN (Bulat and Tzimiropoulos, arXiv 1703.07332) with a heatmap for each point."""

    def __init__(self, settings: ModelSettings) -> None:
        """Build face-alignment's untrained network and widen its last layers from 68 to 106 points."""
        super().__init__()
        from face_alignment.models import FAN as FaceAlignmentNetwork  # noqa: N811

        self.network = FaceAlignmentNetwork(settings.modules)
        for number in range(settings.modules):
            setattr(self.network, f"l{number}", nn.Conv2d(256, COUNT, 1))
            if number < settings.modules - 1:
                setattr(self.network, f"al{number}", nn.Conv2d(COUNT, 256, 1))

    def forward(self, images: Tensor) -> Output:
        """Locate the points in pictures `(n, 3, size, size)` in [0, 255]."""
        maps = torch.stack(self.network(images / 255)).float()
        points, scores = heatmap_peaks(maps[-1])
        return Output(points, scores, maps)


def heatmap_peaks(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Return the centre of mass of the 5 x 5 pixels around the maximum of each heatmap.

    Args:
        maps: `(n, points, side, side)`.

    Returns:
        Points as shares of the side, `(n, points, 2)`, and the heights `(n, points)`.
    """
    side = maps.shape[-1]
    height, index = maps.flatten(2).max(-1)
    steps = torch.arange(side, device=maps.device)
    row, column = index // side, index % side
    near_row = (steps - row[..., None]).abs() <= 2
    near_column = (steps - column[..., None]).abs() <= 2
    mass = maps.clamp_min(1e-6) * (near_row[..., :, None] & near_column[..., None, :])
    total = mass.sum((-2, -1))
    centres = (steps + 0.5) / side
    x, y = (mass.sum(-2) @ centres) / total, (mass.sum(-1) @ centres) / total
    return torch.stack([x, y], -1), height.clamp(0, 1)


def make_model(settings: ModelSettings) -> nn.Module:
    """Build an untrained network."""
    return {"mobile": MobileNet, "fan": FAN}[settings.kind](settings)


def fold_norms(model: nn.Module) -> nn.Module:
    """Fold batch normalisation into the convolutions before it, in place, for inference."""
    for module in model.eval().modules():
        if isinstance(module, ConvNorm) and isinstance(module[1], nn.BatchNorm2d):
            convolution, norm = module[0], module[1]
            assert isinstance(convolution, nn.Conv2d)
            module[0] = nn.utils.fusion.fuse_conv_bn_eval(convolution, norm)
            module[1] = nn.Identity()
    return model


def count_operations(model: nn.Module, size: int) -> int:
    """Count multiplications of the convolutions and linear layers for one picture.

    Multiply and add count as one; floating point operations are twice as many.
    """
    total = 0

    def count(module: nn.Module, _: object, output: Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Conv2d):
            total += module.weight.numel() * output.shape[-2] * output.shape[-1]
        elif isinstance(module, nn.Linear):
            total += module.weight.numel() * (output.numel() // output.shape[-1])

    hooks = [module.register_forward_hook(count) for module in model.modules()]
    training = model.training
    with torch.inference_mode():
        device = next(model.parameters()).device
        model.eval()(torch.zeros(1, 3, size, size, device=device))
    model.train(training)
    for hook in hooks:
        hook.remove()
    return total
