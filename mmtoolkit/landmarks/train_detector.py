"""The function behind `mmtk landmarks train-detector`: the detector on photographs and rendered faces."""

import itertools
from collections.abc import Sequence
from pathlib import Path

from mmtoolkit.core.device import describe_device, resolve_device
from mmtoolkit.core.errors import DataError, UsageError
from mmtoolkit.core.fields import DeviceName
from mmtoolkit.core.progress import progress_bar
from mmtoolkit.landmarks.data.images import PICTURES, read_image
from mmtoolkit.landmarks.data.read import Annotation, read_annotations
from mmtoolkit.landmarks.data.synthetic import render_faces
from mmtoolkit.landmarks.detection.detector import CentreNet
from mmtoolkit.landmarks.detection.scenes import STORED, fill_bank
from mmtoolkit.landmarks.detection.train import fit_detector, save_detector
from mmtoolkit.landmarks.report import DetectorResult

STEPS = 4500
RENDERED = 300
"""Rendered faces beside the photographs."""
RENDERED_SEED = 77


def train_detector(
    output: Path,
    data: Sequence[Path] = (),
    scenes: Path | None = None,
    *,
    steps: int = STEPS,
    rendered: int = RENDERED,
    seed: int = 0,
    device: DeviceName = "auto",
) -> DetectorResult:
    """Train the small face detector and write its averaged weights.

    Args:
        output: new `.safetensors` file.
        data: data sets of photographs with labelled points, one face each.
        scenes: folder of pictures without faces, which become backgrounds; None draws all backgrounds.
        steps: number of batches of 24 pictures.
        rendered: rendered faces beside the photographs.
        seed: seed of network and pictures.
        device: where to compute.

    Raises:
        UsageError: if the file exists or has another suffix, or there is no face to train on.
        DataError: if a data set or the folder of scenes cannot be used.
        DivergenceError: if the loss stops being finite.
    """
    check_output(output)
    items, backgrounds = find_pictures(data, scenes)
    if not items and not rendered:
        raise UsageError("no face to train on; give photographs with `data`")
    faces = itertools.chain((item.face() for item in items), render_faces(rendered, STORED, RENDERED_SEED))
    bank = fill_bank(faces, [read_image(path) for path in backgrounds])
    loss = 0.0
    with progress_bar("steps", steps) as advance:

        def report(_step: int, mean: float, _network: CentreNet) -> None:
            nonlocal loss
            loss = mean
            advance(f"loss {mean:.3f}")

        network = fit_detector(bank, steps, seed=seed, device=resolve_device(device), report=report)
    save_detector(network, output)
    return DetectorResult(output, len(bank.images), len(bank.scenes), loss)


def check_output(output: Path) -> None:
    """Check that the file of the weights can be written.

    Raises:
        UsageError: if it exists, its folder does not, or its name does not end in `.safetensors`.
    """
    if output.suffix != ".safetensors" or output.exists() or not output.parent.is_dir():
        raise UsageError(
            f"`output` {output}: name a new file that ends in .safetensors, in a folder that exists"
        )


def find_pictures(data: Sequence[Path], scenes: Path | None) -> tuple[list[Annotation], list[Path]]:
    """Return the labelled photographs and the files of the pictures without faces.

    Raises:
        DataError: if a data set cannot be used, or the folder holds no picture.
    """
    items = [item for path in data for item in read_annotations(path)]
    if scenes is None:
        return items, []
    files = sorted(file for file in scenes.rglob("*") if file.suffix.lower() in PICTURES)
    if not files:
        raise DataError(f"no picture in it ({', '.join(PICTURES)})", path=scenes)
    return items, files


def describe_work(
    output: Path,
    data: Sequence[Path] = (),
    scenes: Path | None = None,
    *,
    steps: int = STEPS,
    rendered: int = RENDERED,
    device: DeviceName = "auto",
) -> dict[str, int | str]:
    """Check output and data without training, and return the sizes of the work.

    Raises:
        UsageError: if the output cannot be written.
        DataError: if a data set or the folder of scenes cannot be used.
    """
    check_output(output)
    items, backgrounds = find_pictures(data, scenes)
    return {
        "photographs": len(items),
        "rendered": rendered,
        "scenes": len(backgrounds),
        "parameters": sum(p.numel() for p in CentreNet().parameters()),
        "steps": steps,
        "device": describe_device(resolve_device(device)),
    }
