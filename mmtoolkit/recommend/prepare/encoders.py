"""Text and image encoders: sentence-transformers, transformers, timm and EfficientNet-Lite models.

The name of an encoder is a folder, `package:NAME` for weights inside an installed package, or a hub id. Only
names and tensors are read from it: no code of the model, no pickled objects.
"""

import hashlib
import importlib.util
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from safetensors import SafetensorError
from torch import Tensor

from mmtoolkit.core.errors import DataError, UsageError
from mmtoolkit.core.extras import install_command, need
from mmtoolkit.core.logging import logger
from mmtoolkit.recommend.data.dataset import FloatArray

Kind = Literal["text", "image"]
Encode = Callable[[Sequence[Any]], FloatArray]

EXTRA = "encoders"
MODEL_FILES = ("*.json", "*.txt", "*.model", "*.safetensors")
LITE_MEAN, LITE_STD = (127 / 255,) * 3, (128 / 255,) * 3


@dataclass(frozen=True)
class Encoder:
    """A loaded encoder.

    Attributes:
        name: as the user wrote it.
        sha256: hash of its weights and settings.
        width: length of its vectors.
        encode: texts or pictures (RGB) to `(n, width)`.
    """

    name: str
    sha256: str
    width: int
    encode: Encode


def locate(name: str, kind: Kind, *, fetch: bool = True) -> Path | None:
    """Find the folder (or the file) of a model.

    Args:
        name: folder, `package:NAME` or hub id.
        kind: for messages.
        fetch: download a hub id now; otherwise a hub id gives None.

    Raises:
        UsageError: if the model does not exist.
    """
    if name.startswith("package:"):
        return _inside_package(name.removeprefix("package:"), kind)
    if Path(name).expanduser().is_dir():
        return Path(name).expanduser()
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise UsageError(f"`{kind}_encoder` {name}: neither a folder nor a hub id as OWNER/NAME")
    return _fetch(name, kind) if fetch else None


def _inside_package(package: str, kind: Kind) -> Path:
    """Find the model inside an installed package, without running its code."""
    module = package.replace("-", "_")
    spec = importlib.util.find_spec(module) if module.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise UsageError(
            f"`{kind}_encoder` package:{package}: this package is not installed; install it "
            f"(the default encoders: {install_command(EXTRA)}), or name another model"
        )
    root = Path(spec.submodule_search_locations[0])
    found = sorted([*root.rglob("modules.json"), *root.rglob("config.json")], key=lambda p: len(p.parts))
    if found:
        return found[0].parent
    weights = sorted(root.rglob("efficientnet-lite*.pth"))
    if not weights:
        raise UsageError(f"`{kind}_encoder` package:{package}: this package contains no model")
    return weights[0]


def _fetch(name: str, kind: Kind) -> Path:
    from huggingface_hub import snapshot_download

    logger.info("%s: downloading what is not yet in the hub's cache", name)
    try:
        return Path(snapshot_download(name, allow_patterns=[*MODEL_FILES, "*/*.json"]))
    except Exception as error:  # the hub client's errors share no base class
        reason = str(error).strip().splitlines()[0]
        raise UsageError(
            f"`{kind}_encoder` {name}: no such folder, and the download failed: {reason}"
        ) from None


def load_encoder(name: str, kind: Kind, device: torch.device) -> Encoder:
    """Load a text or an image encoder.

    Raises:
        UsageError: if the model does not exist, or a package that it needs is missing.
        DataError: if its files cannot be used.
    """
    path = locate(name, kind)
    assert path is not None
    load, probe = (
        (_sentence_model, "text") if kind == "text" else (_image_loader(path), Image.new("RGB", (64, 64)))
    )
    try:
        with torch.no_grad():
            encode = load(path, device)
            width = encode([probe]).shape[1]
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        raise DataError(f"cannot be used as {kind} encoder: {reason}", path=path) from None
    return Encoder(name, _hash_model(path), width, encode)


def _image_loader(path: Path) -> Callable[[Path, torch.device], Encode]:
    if path.suffix == ".pth":
        return _efficientnet_lite
    return _timm_model if "architecture" in _read_config(path) else _transformers_model


def _sentence_model(path: Path, device: torch.device) -> Encode:
    """Load a sentence-transformers model, or a transformers model whose tokens are averaged."""
    _quiet_transformers()
    library = need("sentence_transformers", EXTRA, "encoding texts")
    model = library.SentenceTransformer(str(path), device=str(device), local_files_only=True)

    def encode(texts: Sequence[str]) -> FloatArray:
        rows = model.encode(list(texts), batch_size=len(texts), show_progress_bar=False)
        return np.asarray(rows, np.float32)

    return encode


def _transformers_model(path: Path, device: torch.device) -> Encode:
    """Load an image model of transformers with its own picture processor.

    The vector is the model's image embedding (CLIP and similar models), else its pooled output, else the
    first token if the checkpoint has no weights for the pooling layer.
    """
    from transformers import AutoImageProcessor, AutoModel

    _quiet_transformers()
    processor = AutoImageProcessor.from_pretrained(path, local_files_only=True)
    model, loaded = AutoModel.from_pretrained(path, local_files_only=True, output_loading_info=True)
    missing = sorted(key for key in loaded["missing_keys"] if not key.startswith("pooler."))
    if missing:
        raise ValueError(f"its weights lack '{missing[0]}' (and {len(missing) - 1} more)")
    pooled = not loaded["missing_keys"]
    model = model.to(device).eval()

    def encode(pictures: Sequence[Image.Image]) -> FloatArray:
        pixels = processor(images=list(pictures), return_tensors="pt")["pixel_values"].to(device)
        return _vectors(model, pixels, pooled=pooled)

    return encode


@torch.no_grad()
def _vectors(model: Any, pixels: Tensor, *, pooled: bool) -> FloatArray:
    output = (model.get_image_features if hasattr(model, "get_image_features") else model)(
        pixel_values=pixels
    )
    if not isinstance(output, Tensor):
        pooler = getattr(output, "pooler_output", None)
        output = pooler if pooled and pooler is not None else output.last_hidden_state[:, 0]
    return _numpy(output.flatten(1))


def _timm_model(path: Path, device: torch.device) -> Encode:
    """Load a timm model from a folder in the hub's layout, without its classifier."""
    from safetensors.torch import load_file

    timm = need("timm", "timm", "this image encoder")
    config = _read_config(path)
    model = timm.create_model(config["architecture"], num_classes=0, **config.get("model_args", {}))
    weights = load_file(path / "model.safetensors")
    missing = model.load_state_dict(weights, strict=False).missing_keys
    if missing:
        raise ValueError(f"its weights lack '{missing[0]}' (and {len(missing) - 1} more)")
    given = config["pretrained_cfg"]
    side = given["input_size"][-1]
    method = getattr(Image.Resampling, given.get("interpolation", "bicubic").upper())
    bleed = (1 - given.get("crop_pct", 0.875)) / 2

    def fit(picture: Image.Image) -> Image.Image:
        return ImageOps.fit(picture, (side, side), method, bleed=bleed)

    return _pixel_encoder(model, fit, given["mean"], given["std"], device)


def _efficientnet_lite(path: Path, device: torch.device) -> Encode:
    """Load EfficientNet-Lite weights; pictures are resized to the model's square without cropping."""
    library = need("efficientnet_lite_pytorch", EXTRA, "EfficientNet-Lite")
    found = re.match(r"efficientnet-lite\d", path.name)
    if found is None:
        raise ValueError("its file name names no EfficientNet-Lite variant")
    side = library.EfficientNet.get_image_size(found[0])
    model = library.EfficientNet.from_name(found[0])
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))

    def fit(picture: Image.Image) -> Image.Image:
        return picture.resize((side, side), Image.Resampling.BICUBIC)

    features = torch.nn.Module()
    features.forward = lambda x: model.extract_features(x).mean(dim=(2, 3))
    features.model = model
    return _pixel_encoder(features, fit, LITE_MEAN, LITE_STD, device)


def _pixel_encoder(
    model: torch.nn.Module,
    fit: Callable[[Image.Image], Image.Image],
    mean: Sequence[float],
    std: Sequence[float],
    device: torch.device,
) -> Encode:
    """Encode pictures that are resized to one size and normalised per channel."""
    model = model.to(device).eval()
    centre, spread = np.array(mean, np.float32), np.array(std, np.float32)

    def encode(pictures: Sequence[Image.Image]) -> FloatArray:
        arrays = [(np.asarray(fit(p), np.float32) / 255 - centre) / spread for p in pictures]
        pixels = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).to(device)
        with torch.no_grad():
            return _numpy(model(pixels))

    return encode


def _numpy(rows: Tensor) -> FloatArray:
    array: NDArray[np.float32] = rows.float().cpu().numpy()
    return array


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise DataError("no readable config.json; name the folder of a model", path=path) from None
    return config if isinstance(config, dict) else {}


def _quiet_transformers() -> None:
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def _hash_model(path: Path) -> str:
    """Hash the files of the model, in the order of their names."""
    files = [path] if path.is_file() else sorted(p for g in MODEL_FILES for p in path.rglob(g))
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode())
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()
