"""Open a trained network for use: the shipped one, that of a run or checkpoint, or an exported file."""

import json
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from mmtoolkit.core.checkpoint import load_checkpoint, matching_weights
from mmtoolkit.core.config import config_layer, resolve
from mmtoolkit.core.device import resolve_device
from mmtoolkit.core.errors import CheckpointError
from mmtoolkit.core.fields import DeviceName
from mmtoolkit.core.files import read_tensors
from mmtoolkit.core.run import MODEL_FILE, RunDirectory
from mmtoolkit.landmarks.config import LandmarkSettings, ModelSettings
from mmtoolkit.landmarks.data.face import Boxes, Image, official_box
from mmtoolkit.landmarks.data.images import crop_squares, from_square, square_boxes
from mmtoolkit.landmarks.data.points import COUNT, FLIP, Points
from mmtoolkit.landmarks.models.networks import Output, fold_norms, make_model

SHIPPED = "compact.safetensors"


@dataclass(frozen=True)
class Landmarker:
    """A trained network, ready to locate points.

    Attributes:
        name: where it came from.
        settings: settings of the model.
        network: in evaluation mode, batch normalisation folded.
        device: where it computes.
        flip: average with the prediction on the mirrored crop.
    """

    name: str
    settings: ModelSettings
    network: nn.Module
    device: torch.device
    flip: bool = False

    def locate(self, crops: Image) -> tuple[Points, Points]:
        """Locate the points in crops.

        Args:
            crops: `(n, size, size, 3)` uint8.

        Returns:
            Points as shares of the crop, `(n, 106, 2)`, and scores `(n, 106)`.
        """
        with torch.inference_mode():
            images = torch.from_numpy(crops).to(self.device).permute(0, 3, 1, 2).float()
            output: Output = self.network(images)
            points, scores = output.points, output.scores
            if self.flip:
                mirrored = self.network(images.flip(-1))
                other = mirrored.points[:, FLIP] * torch.tensor([-1.0, 1.0], device=self.device)
                points = (points + other + torch.tensor([1.0, 0.0], device=self.device)) / 2
                scores = (scores + mirrored.scores[:, FLIP]) / 2
        return points.float().cpu().numpy(), scores.float().cpu().numpy()

    def __call__(self, image: Image, boxes: Boxes, passes: int = 2) -> tuple[Points, Points]:
        """Locate the points of the faces in a picture.

        Args:
            image: `(height, width, 3)` RGB.
            boxes: `(n, 4)` left, top, right, bottom.
            passes: 2 looks again through the box of the first pass's points, so that the result depends
                little on the boxes of the detector.

        Returns:
            Points in pixels, `(n, 106, 2)`, and scores `(n, 106)`.
        """
        points, scores = (
            np.zeros((len(boxes), COUNT, 2), np.float32),
            np.zeros((len(boxes), COUNT), np.float32),
        )
        if not len(boxes):
            return points, scores
        for _ in range(passes):
            squares = square_boxes(boxes, self.settings.box_scale)
            shares, scores = self.locate(crop_squares(image, squares, self.settings.size))
            points = from_square(shares, squares)
            boxes = np.stack([official_box(one) for one in points])
        return points, scores


def load(source: Path | None = None, device: DeviceName = "auto", *, flip: bool = False) -> Landmarker:
    """Load a trained network.

    Args:
        source: folder of a run (its best checkpoint) or of one checkpoint, or an exported `.safetensors`
            file; None takes the weights that ship with the package.
        device: where to compute.
        flip: average with the mirrored crop.

    Raises:
        CheckpointError: if there is no such run or file, or it is damaged.
    """
    resolved = resolve_device(device)
    settings, weights, name = load_weights(source)
    model = make_model(settings)
    # exported weights have no norms any more: the new network must lose its own before it takes them
    folded = not any(key.endswith("running_mean") for key in weights)
    if folded:
        fold_norms(model)
    path = Path(name)
    model.load_state_dict(matching_weights(weights, model.state_dict(), path))
    fold_norms(model)
    model = model.float().to(resolved, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Landmarker(name, settings, model, resolved, flip)


def load_weights(source: Path | None) -> tuple[ModelSettings, dict[str, Tensor], str]:
    """Return the settings of a model, its weights and a name for it; see :func:`load`."""
    if source is None:
        resource = files("mmtoolkit.landmarks") / "weights" / SHIPPED
        if not resource.is_file():
            raise CheckpointError("no weights ship with this build; name a run with `checkpoint`")
        with as_file(resource) as path:
            return *read_exported(path), "compact (shipped)"
    if source.is_file():
        return *read_exported(source), str(source)
    run, path = RunDirectory.locate(source)
    settings = resolve(LandmarkSettings, [config_layer("landmarks", str(run.config_path))]).settings
    return settings.model, load_checkpoint(path, state=False).model, str(source)


def as_landmarker(model: Landmarker | Path | None) -> Landmarker:
    """Load a network unless it is loaded already."""
    return model if isinstance(model, Landmarker) else load(model)


def is_network(path: Path) -> bool:
    """Return whether a path is a run, a checkpoint or an exported file rather than predictions."""
    files_of_runs = (path / "config.yaml", path / MODEL_FILE)
    return path.suffix == ".safetensors" or any(file.is_file() for file in files_of_runs)


def read_exported(path: Path) -> tuple[ModelSettings, dict[str, Tensor]]:
    """Read a `.safetensors` file that `mmtk landmarks export` wrote.

    Raises:
        CheckpointError: if it is damaged or something else.
    """
    weights, metadata = read_tensors(path)
    try:
        settings = ModelSettings.model_validate(json.loads(metadata["model"]))
    except (ValueError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{path}: not weights of `mmtk landmarks export`: {reason}") from None
    return settings, {name: weight.float() for name, weight in weights.items()}


def untrained(preset_or_file: str) -> Landmarker:
    """Build the untrained network of a preset or a settings file, to measure its cost."""
    settings = resolve(LandmarkSettings, [config_layer("landmarks", preset_or_file)]).settings.model
    device = torch.device("cpu")
    model = fold_norms(make_model(settings)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Landmarker(f"{preset_or_file} (untrained)", settings, model, device)
