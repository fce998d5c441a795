"""The function behind `mmtk landmarks export`: ONNX, TorchScript, or one small file of weights."""

import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from mmtoolkit.core.errors import RunError, UsageError
from mmtoolkit.core.extras import need
from mmtoolkit.landmarks.data.face import Face, Image
from mmtoolkit.landmarks.data.images import crop_squares, square_boxes
from mmtoolkit.landmarks.data.read import read_annotations
from mmtoolkit.landmarks.data.synthetic import render_faces
from mmtoolkit.landmarks.load import Landmarker, load

TOLERANCE = 0.05
"""Largest distance in pixels of the crop between the points of an exported network and of torch."""
ROUNDED_TOLERANCE = 0.5
"""The same for weights that are rounded to half precision."""

SUFFIXES = {"onnx": ".onnx", "torchscript": ".pt", "safetensors": ".safetensors"}


class Exported(nn.Module):
    """A network with plain outputs: points as shares of the crop, and scores."""

    def __init__(self, network: nn.Module) -> None:
        """Wrap a network."""
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Turn pictures `(n, 3, size, size)`, RGB in [0, 255], into `(n, 106, 2)` and `(n, 106)`."""
        output = self.network(images)
        return output.points, output.scores


@dataclass(frozen=True)
class Export:
    """A file that was written.

    Attributes:
        path: the file.
        size: its size in bytes.
        difference: largest distance to torch's points on the crops, in pixels of the crop.
    """

    path: Path
    size: int
    difference: float


def comparison_crops(landmarker: Landmarker, data: Path | None, count: int = 16) -> Image:
    """Cut out the first faces of a data set, or rendered ones, on which an export is compared."""
    if data is not None:
        return cut_crops([item.face() for item in read_annotations(data)[:count]], landmarker)
    return cut_crops(list(render_faces(count, 2 * landmarker.settings.size, 0)), landmarker)


def cut_crops(faces: list[Face], landmarker: Landmarker) -> Image:
    """Cut out faces as the network sees them, `(n, size, size, 3)`."""
    settings = landmarker.settings
    crops = [
        crop_squares(face.image, square_boxes(face.box[None], settings.box_scale), settings.size)
        for face in faces
    ]
    return np.concatenate(crops)


def export(model: Landmarker | Path | None, output: Path, kind: str, data: Path | None = None) -> Export:
    """Write a network to a file and compare it with torch on faces.

    Args:
        model: network on the CPU, run, checkpoint or exported file; None takes the weights that ship.
        output: new file.
        kind: `onnx`, `torchscript` or `safetensors` (weights in half precision, which :func:`load` takes).
        data: data set of the faces to compare on; None renders some.

    Raises:
        UsageError: if the file's name is wrong or taken, or a package for ONNX is missing.
        RunError: if the exported network finds other points; the file is removed then.
    """
    landmarker = model if isinstance(model, Landmarker) else load(model, "cpu")
    return export_network(landmarker, output, kind, comparison_crops(landmarker, data))


def export_network(landmarker: Landmarker, output: Path, kind: str, crops: Image) -> Export:
    """Write a loaded network and compare it on crops `(n, size, size, 3)`; see :func:`export`."""
    if output.suffix != SUFFIXES[kind] or output.exists():
        raise UsageError(f"`output` {output}: name a new file that ends in {SUFFIXES[kind]}")
    if not output.parent.is_dir():
        raise UsageError(f"`output` {output}: no folder {output.parent}; make it first")
    write = {"onnx": _onnx, "torchscript": _torchscript, "safetensors": _safetensors}[kind]
    run = write(landmarker, output)
    wanted, found = landmarker.locate(crops)[0], run(crops)
    difference = float(np.linalg.norm(found - wanted, axis=-1).max() * landmarker.settings.size)
    allowed = ROUNDED_TOLERANCE if kind == "safetensors" else TOLERANCE
    if not difference <= allowed:  # also true of NaN
        output.unlink()
        raise RunError(f"{kind}: points differ from torch's by {difference:.3g} pixels (allowed: {allowed})")
    return Export(output, output.stat().st_size, difference)


def _as_input(crops: Image) -> Tensor:
    return torch.from_numpy(crops).permute(0, 3, 1, 2).float().contiguous()


def _onnx(landmarker: Landmarker, path: Path) -> Callable[[Image], np.ndarray]:
    need("onnx", "onnx", "`format` onnx")
    need("onnxruntime", "onnx", "`format` onnx")
    size = landmarker.settings.size
    network, example = Exported(landmarker.network).eval(), torch.zeros(1, 3, size, size)
    with warnings.catch_warnings():
        # deprecated, but it needs no other package and its graphs are smaller and simpler
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (example,),
            str(path),
            input_names=["images"],
            output_names=["points", "scores"],
            dynamic_axes={name: {0: "faces"} for name in ("images", "points", "scores")},
            opset_version=17,
            dynamo=False,
        )
    session = onnx_session(path)
    return lambda crops: session(crops)[0]


def onnx_session(path: Path, threads: int = 1) -> Callable[[Image], list[np.ndarray]]:
    """Open an exported network in ONNX Runtime: crops `(n, size, size, 3)` to points and scores."""
    onnxruntime = need("onnxruntime", "onnx", "ONNX")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda crops: session.run(None, {"images": _as_input(crops).numpy()})


def _torchscript(landmarker: Landmarker, path: Path) -> Callable[[Image], np.ndarray]:
    size = landmarker.settings.size
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(Exported(landmarker.network).eval(), torch.zeros(2, 3, size, size))
        torch.jit.save(torch.jit.freeze(traced), str(path))
        loaded = torch.jit.load(str(path))

    def run(crops: Image) -> np.ndarray:
        with torch.no_grad():
            points: np.ndarray = loaded(_as_input(crops))[0].numpy()
        return points

    return run


def _safetensors(landmarker: Landmarker, path: Path) -> Callable[[Image], np.ndarray]:
    weights = {k: v.half().contiguous() for k, v in landmarker.network.state_dict().items()}
    save_file(weights, path, {"model": json.dumps(landmarker.settings.model_dump(mode="json"))})
    loaded = load(path, "cpu")
    return lambda crops: loaded.locate(crops)[0]
