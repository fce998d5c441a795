"""Export a network to ONNX, TorchScript or one small weights file, and measure what it costs."""

import json
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from mmtoolkit.core.errors import RunError, UsageError
from mmtoolkit.landmarks.data.face import Face, Image
from mmtoolkit.landmarks.data.images import crop_squares, square_boxes
from mmtoolkit.landmarks.data.read import read_annotations
from mmtoolkit.landmarks.load import Landmarker, load_landmarker
from mmtoolkit.landmarks.models.networks import count_operations

TOLERANCE = 0.05
"""Largest distance in pixels of the crop between an exported network's points and torch's."""
HALF_TOLERANCE = 0.5
"""The same for weights that were rounded to half precision."""

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
    """What was written.

    Attributes:
        path: the file.
        size: its bytes.
        difference: largest distance to torch's points on the crops, in pixels of the crop.
    """

    path: Path
    size: int
    difference: float


def comparison_crops(landmarker: Landmarker, data: Path | None, count: int = 16) -> Image:
    """Cut out the first faces of a data set, or rendered ones, to compare an export on."""
    if data is not None:
        return cut_crops([item.face() for item in read_annotations(data)[:count]], landmarker)
    from mmtoolkit.landmarks.data.synthetic import render_faces

    return cut_crops(list(render_faces(count, 2 * landmarker.settings.size, 0)), landmarker)


def cut_crops(faces: list[Face], landmarker: Landmarker) -> Image:
    """Cut faces out as the network sees them, `(n, size, size, 3)`."""
    settings = landmarker.settings
    crops = [
        crop_squares(face.image, square_boxes(face.box[None], settings.box_scale), settings.size)
        for face in faces
    ]
    return np.concatenate(crops)


def export(landmarker: Landmarker, path: Path, kind: str, crops: Image) -> Export:
    """Write a network to a file and compare it with torch before saying so.

    Args:
        landmarker: the network, on the CPU.
        path: new file.
        kind: `onnx`, `torchscript` or `safetensors` (half precision, what ships and what
            `--checkpoint` takes).
        crops: `(n, size, size, 3)` real faces to compare on.

    Raises:
        UsageError: if the file's name is wrong or taken, or a package for ONNX is missing.
        RunError: if the exported network finds other points; the file is removed then.
    """
    if path.suffix != SUFFIXES[kind] or path.exists():
        raise UsageError(f"--output {path}: name a new file that ends in {SUFFIXES[kind]}")
    if not path.parent.is_dir():
        raise UsageError(f"--output {path}: no folder {path.parent}; make it first")
    run = {"onnx": _onnx, "torchscript": _torchscript, "safetensors": _safetensors}[kind](landmarker, path)
    wanted, found = landmarker.locate(crops)[0], run(crops)
    difference = float(np.linalg.norm(found - wanted, axis=-1).max() * landmarker.settings.size)
    allowed = HALF_TOLERANCE if kind == "safetensors" else TOLERANCE
    if not difference <= allowed:
        path.unlink()
        raise RunError(f"{kind}: points differ from torch's by {difference:.3g} pixels (allowed: {allowed})")
    return Export(path, path.stat().st_size, difference)


def _as_input(crops: Image) -> Tensor:
    return torch.from_numpy(crops).permute(0, 3, 1, 2).float().contiguous()


def _onnx(landmarker: Landmarker, path: Path) -> Callable[[Image], np.ndarray]:
    need_onnx()
    size = landmarker.settings.size
    network, example = Exported(landmarker.network).eval(), torch.zeros(1, 3, size, size)
    with warnings.catch_warnings():
        # the exporter that needs nothing but onnx is deprecated, and still the one with small, plain graphs
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


def need_onnx() -> None:
    """Check that onnx and onnxruntime are installed.

    Raises:
        UsageError: if one is missing.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise UsageError(f"ONNX needs {error.name}; pip install 'mmtoolkit[onnx]'") from None


def onnx_session(path: Path, threads: int = 1) -> Callable[[Image], list[np.ndarray]]:
    """Open an exported network in ONNX Runtime: crops `(n, size, size, 3)` to points and scores."""
    import onnxruntime

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
    loaded = load_landmarker(path, "cpu")
    return lambda crops: loaded.locate(crops)[0]


@dataclass(frozen=True)
class Profile:
    """What a network costs.

    Attributes:
        parameters: numbers that are learnt.
        multiplications: multiply-adds for a face; floating point operations are twice as many.
        bytes: of its weights in half precision, as they ship.
        milliseconds: for one face on one thread of the CPU, median.
        limits: whether the second and the third challenge's limits hold.
    """

    parameters: int
    multiplications: int
    bytes: int
    milliseconds: float
    limits: dict[str, bool]


def profile(landmarker: Landmarker, repeats: int = 50) -> Profile:
    """Measure a network; operations are counted as two for each multiply-add."""
    parameters = sum(p.numel() for p in landmarker.network.parameters())
    operations = count_operations(landmarker.network, landmarker.settings.size)
    limits = {
        "second challenge (1 GFLOP, 20 MB)": 2 * operations <= 1e9 and 2 * parameters <= 20e6,
        "third challenge (100 MFLOPs, 2 MB)": 2 * operations <= 1e8 and 2 * parameters <= 2e6,
    }
    return Profile(parameters, operations, 2 * parameters, milliseconds_per_face(landmarker, repeats), limits)


def milliseconds_per_face(landmarker: Landmarker, repeats: int = 50, batch: int = 1) -> float:
    """Time the network on one thread, from bytes of the crop to points: median milliseconds a face.

    CPU time, so that other work on the machine does not count.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    size = landmarker.settings.size
    crops = np.random.default_rng(0).integers(0, 255, (batch, size, size, 3)).astype(np.uint8)
    seconds = []
    for _ in range(repeats + 5):
        start = time.process_time()
        landmarker.locate(crops)
        seconds.append(time.process_time() - start)
    torch.set_num_threads(threads)
    return 1e3 * float(np.median(seconds[5:])) / batch
