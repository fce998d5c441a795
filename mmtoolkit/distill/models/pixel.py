"""The `pixel` family: small UNets on pixels, conditioned on a caption or class and trained from scratch."""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Literal, Self, cast

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from mmtoolkit.core.checkpoint import load_checkpoint, matching_weights
from mmtoolkit.core.config import did_you_mean
from mmtoolkit.core.errors import CheckpointError, UsageError
from mmtoolkit.core.files import read_json, read_tensors
from mmtoolkit.core.run import LAST, RunDirectory
from mmtoolkit.distill.config import SHAPES, ModelSettings, NetworkSettings, TargetSettings
from mmtoolkit.distill.data.read import Kind, Pictures
from mmtoolkit.distill.models.denoiser import TIMESTEPS, Condition, Levels, Prediction
from mmtoolkit.distill.models.lora import ADAPTER, add_lora

LORA_TARGETS = re.compile(
    r"to_q|to_k|to_v|to_out\.0|proj_in|proj_out|ff\.net|conv1|conv2|conv$|time_emb_proj"
)
"""Layers of the UNet that carry the LoRA: attention, feed-forward, convolutions and time projections."""


@dataclass(frozen=True)
class PixelSpec:
    """Everything needed to build a network and to tokenize its texts.

    Attributes:
        size: side of the pictures in pixels.
        network: widths and layers of the UNet.
        kind: whether its texts are captions or classes.
        words: vocabulary; word i has token i + 1, token 0 is padding.
        length: number of tokens per text.
    """

    size: int
    network: NetworkSettings
    kind: Kind
    words: tuple[str, ...]
    length: int

    @classmethod
    def of(cls, pictures: Pictures, network: NetworkSettings, size: int) -> Self:
        """Build the spec for a set of pictures, with all of its words as vocabulary."""
        texts = [split_words(text, pictures.kind) for text in set(pictures.texts)]
        words = tuple(sorted({word for text in texts for word in text}))
        return cls(size, network, pictures.kind, words, max(1, *(len(text) for text in texts)))

    def to_json(self) -> str:
        """Return the spec as JSON."""
        return json.dumps(asdict(self) | {"network": self.network.model_dump(mode="json")})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what :meth:`to_json` wrote.

        Raises:
            CheckpointError: if the text is damaged or from another version.
        """
        values = read_json(text, "the network's description")
        try:
            network = NetworkSettings.model_validate(values.pop("network"))
            return cls(**values | {"network": network, "words": tuple(values["words"])})
        except (KeyError, TypeError, ValueError):
            raise CheckpointError("the network's description is damaged or of another version") from None

    def tokens(self, texts: Sequence[str]) -> Tensor:
        """Return the tokens `(texts, length)` of captions or classes; an empty text is all zeros.

        Raises:
            UsageError: if a text has an unknown word or too many words.
        """
        ids = {word: index + 1 for index, word in enumerate(self.words)}
        rows = torch.zeros(len(texts), self.length, dtype=torch.long)
        for row, text in zip(rows, texts, strict=True):
            words = split_words(text, self.kind)
            if unknown := [word for word in words if word not in ids]:
                known = f"it knows: {' '.join(self.words[:60])}{' ...' if len(self.words) > 60 else ''}"
                near = did_you_mean(unknown[0], self.words)
                raise UsageError(f"'{text}': the model has never read '{unknown[0]}'{near or f'; {known}'}")
            if len(words) > self.length:
                raise UsageError(f"'{text}': {len(words)} words; this model reads at most {self.length}")
            row[: len(words)] = torch.tensor([ids[word] for word in words])
        return rows


def split_words(text: str, kind: Kind) -> list[str]:
    """Split a caption into lower-case words; a class is one word, unchanged."""
    if kind == "class":
        return [text] if text else []
    return re.findall(r"\w+", text.lower())


class TextEncoder(nn.Module):
    """Word and position embeddings, and one self-attention layer."""

    def __init__(self, words: int, length: int, width: int) -> None:
        """Initialise for a vocabulary of `words` words and texts of `length` tokens."""
        super().__init__()
        self.word = nn.Embedding(words + 1, width)
        # position embedding; shipped weights store it under this name
        self.place = nn.Parameter(0.02 * torch.randn(length, width))
        self.norm = nn.LayerNorm(width)
        self.mix = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Encode tokens `(rows, length)` as `(rows, length, width)`."""
        x = self.word(tokens) + self.place
        query, key, value = self.mix(self.norm(x)).chunk(3, dim=-1)
        return cast("Tensor", x + self.out(F.scaled_dot_product_attention(query, key, value)))


class PixelNetwork(nn.Module):
    """A UNet on patches of pixels; text enters by cross-attention and, averaged, with the time embedding."""

    def __init__(self, spec: PixelSpec) -> None:
        """Initialise with random weights."""
        super().__init__()
        net = spec.network
        inputs = 3 * net.patch**2
        attends = [level >= net.attention_from for level in range(len(net.channels))]
        self.patch = net.patch
        self.text = TextEncoder(len(spec.words), spec.length, net.text_width)
        self.unet = UNet2DConditionModel(
            sample_size=spec.size // net.patch,
            in_channels=inputs,
            out_channels=inputs,
            block_out_channels=net.channels,
            layers_per_block=net.layers,
            down_block_types=tuple("CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attends),
            up_block_types=tuple("CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)),
            cross_attention_dim=net.text_width,
            attention_head_dim=tuple(max(1, width // 32) for width in net.channels),
            norm_num_groups=8,
            class_embed_type="projection",
            projection_class_embeddings_input_dim=net.text_width,
        )

    def forward(self, x: Tensor, times: Tensor, tokens: Tensor) -> Tensor:
        """Return the prediction for x.

        Args:
            x: noisy pictures `(rows, 3, side, side)`.
            times: timesteps `(rows,)`.
            tokens: of the texts, `(rows, length)`.

        Returns:
            The prediction, the shape of x.
        """
        text = self.text(tokens)
        inner = F.pixel_unshuffle(x, self.patch)
        output = self.unet(inner, times, text, class_labels=text.mean(1), return_dict=False)[0]
        return F.pixel_shuffle(output, self.patch)


def pixel_levels() -> Levels:
    """Return the levels of all pixel models: betas from 1e-4 to 0.02 (Ho et al., arXiv 2006.11239)."""
    betas = torch.linspace(1e-4, 0.02, TIMESTEPS, dtype=torch.float64)
    return Levels.from_alphas_cumprod(torch.cumprod(1 - betas, 0).float())


class PixelDenoiser:
    """A pixel model as a :class:`~mmtoolkit.distill.models.denoiser.Denoiser`."""

    def __init__(self, network: PixelNetwork, spec: PixelSpec, device: torch.device) -> None:
        """Wrap a network; all of its weights train until :meth:`adapt` is called."""
        self.spec = spec
        self.model = network.to(device)
        self.network: nn.Module = self.model
        self.frozen: PixelNetwork | None = None
        self.adapted = False
        self.device = device
        self.levels = pixel_levels().to(device)
        self.prediction: Prediction = spec.network.prediction
        self.shape: tuple[int, ...] = (3, spec.size, spec.size)

    def adapt(self, settings: ModelSettings) -> None:
        """Freeze the teacher and add a LoRA for the student, or train all weights beside a frozen copy."""
        if settings.checkpointing:
            self.model.unet.enable_gradient_checkpointing()
        if settings.adapter == "full":
            self.frozen = PixelNetwork(self.spec).to(self.device)
            self.frozen.load_state_dict(self.model.state_dict())
            self.frozen.requires_grad_(False)
            self.model.text.requires_grad_(False)
            return
        self.model.requires_grad_(False)
        layers = {
            name: min(settings.rank, *module.weight.shape[:2])
            for name, module in self.model.unet.named_modules()
            if isinstance(module, nn.Linear | nn.Conv2d) and LORA_TARGETS.search(name)
        }
        scale = 1.0 if settings.alpha is None else settings.alpha / settings.rank
        add_lora(self.model.unet, layers, {name: scale * rank for name, rank in layers.items()})
        self.adapted = True

    def predict(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Run the student, or the teacher inside :meth:`teacher`; x is `(rows, *shape)`, t is `(rows,)`."""
        return cast("Tensor", self.network(x, self.levels.times[t], condition["tokens"]))

    def empty(self, condition: Condition) -> Condition:
        """Return the empty condition for as many rows: all tokens 0."""
        return {"tokens": torch.zeros_like(condition["tokens"])}

    @contextmanager
    def teacher(self) -> Iterator[None]:
        """Make `predict` the frozen teacher inside a `with` block: adapters off, or the frozen copy."""
        student = self.network
        if self.frozen is not None:
            self.network = self.frozen
        elif self.adapted:
            self.model.unet.disable_adapters()
        try:
            yield
        finally:
            self.network = student
            if self.adapted:
                self.model.unet.enable_adapters()

    def trainable(self) -> dict[str, nn.Parameter]:
        """Return the LoRA matrices, or all trainable weights, by their names in saved files."""
        return {
            name.replace(f".{ADAPTER}.", "."): value
            for name, value in self.model.named_parameters()
            if (".lora_" in name if self.adapted else value.requires_grad)
        }

    def decode(self, x: Tensor) -> Tensor:
        """Return the pictures, clipped to [-1, 1]: samples of this family are pixels."""
        return x.clamp(-1, 1)


def save_pixel(path: Path, weights: dict[str, Tensor], spec: PixelSpec, facts: dict[str, Any]) -> None:
    """Write weights in half precision, with the spec and facts needed to use them, as one file."""
    half = {name: value.detach().half().cpu().contiguous() for name, value in weights.items()}
    save_file(half, path, {"spec": spec.to_json(), "facts": json.dumps(facts)})


@dataclass(frozen=True)
class PixelFile:
    """Weights of a pixel teacher or student.

    Attributes:
        path: file of the weights.
        weights: by name.
        spec: of the network.
        facts: settings of the training; a student has `model` and `targets`.
    """

    path: Path
    weights: dict[str, Tensor]
    spec: PixelSpec
    facts: dict[str, Any]


def read_pixel(name: str, kind: Literal["teacher", "student"]) -> PixelFile:
    """Read the weights of a pixel teacher or student.

    Args:
        name: `shapes` for the shipped weights, a run, one of its checkpoints, or a file.
        kind: which of the two is expected.

    Raises:
        CheckpointError: if there is none, or it is damaged or of the other kind.
    """
    command = "teach" if kind == "teacher" else "train"
    if name == SHAPES:
        with as_file(files("mmtoolkit.distill") / "weights" / f"{kind}.safetensors") as shipped:
            return _read_file(shipped, kind)
    path = Path(name)
    if path.is_file():
        return _read_file(path, kind)
    if not path.is_dir():
        raise CheckpointError(
            f"{name}: no such {kind}; name a run of `mmtk distill {command}`, or `{SHAPES}`"
        )
    folder = path if (path / "model.safetensors").is_file() else RunDirectory(path).checkpoint(LAST)
    stored = load_checkpoint(folder, state=False)
    if stored.meta.get("engine") != f"distill {command}" or "spec" not in stored.meta:
        raise CheckpointError(f"{name}: not a pixel {kind}; name a run of `mmtk distill {command}`")
    spec = PixelSpec.from_json(stored.meta["spec"])
    return PixelFile(folder / "model.safetensors", stored.model, spec, stored.meta.get("facts", {}))


def _read_file(path: Path, kind: str) -> PixelFile:
    tensors, metadata = read_tensors(path)
    weights = {name: tensor.float() for name, tensor in tensors.items()}
    facts = read_json(metadata.get("facts", "{}"), path)
    if "spec" not in metadata or ("model" in facts) != (kind == "student"):
        raise CheckpointError(f"{path}: not a pixel {kind} of mmtk distill")
    return PixelFile(path, weights, PixelSpec.from_json(metadata["spec"]), facts)


def load_pixel(base: str, device: torch.device) -> PixelDenoiser:
    """Load a pixel teacher; `base` and errors as of :func:`read_pixel`."""
    file = read_pixel(base, "teacher")
    network = PixelNetwork(file.spec)
    network.load_state_dict(matching_weights(file.weights, network.state_dict(), file.path))
    return PixelDenoiser(network.eval(), file.spec, device)


def load_pixel_student(
    name: str, base: str | None, device: torch.device
) -> tuple[PixelDenoiser, TargetSettings]:
    """Load a pixel student on its teacher.

    Args:
        name: see :func:`read_pixel`.
        base: its teacher; None is the one that it was trained from.
        device: where to compute.

    Returns:
        The student, frozen, and the target settings of its training.

    Raises:
        CheckpointError: if a file is missing or damaged, or the student belongs to another teacher.
    """
    file = read_pixel(name, "student")
    model = ModelSettings.model_validate(file.facts["model"])
    denoiser = load_pixel(base or model.base, device)
    if denoiser.spec != file.spec:
        raise CheckpointError(
            f"{name}: made for another teacher than {base or model.base}; name it with `base`"
        )
    denoiser.adapt(model)
    own = denoiser.trainable()
    weights = matching_weights(file.weights, {key: value.data for key, value in own.items()}, file.path)
    with torch.no_grad():
        for key, parameter in own.items():
            parameter.copy_(weights[key])
    denoiser.model.requires_grad_(False).eval()
    return denoiser, TargetSettings.model_validate(file.facts["targets"])


def with_size(network: NetworkSettings, size: int) -> int:
    """Return the side of the pictures, in pixels, if the UNet can downsample it evenly.

    Raises:
        UsageError: if it cannot.
    """
    factor = network.patch * 2 ** (len(network.channels) - 1)
    if size % factor:
        raise UsageError(f"pictures of {size} pixels: this network needs a multiple of {factor}")
    return size
