"""The CLIP score: how well pictures match their texts, by a CLIP that the user names."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from mmtoolkit.core.errors import ConfigError

MEAN, SPREAD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Mean and standard deviation of CLIP's training pictures, by channel (Radford et al., arXiv 2103.00020)."""


class Clip:
    """A frozen CLIP model."""

    def __init__(self, name: str, device: torch.device) -> None:
        """Load the model and its tokenizer.

        Args:
            name: folder or hub id of a CLIP in the format of transformers, with its tokenizer.
            device: device to compute on.

        Raises:
            ConfigError: if it cannot be loaded.
        """
        from transformers import CLIPModel, CLIPTokenizer

        try:
            model: Any = CLIPModel.from_pretrained(name)
            self.tokenizer: Any = CLIPTokenizer.from_pretrained(name)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[0][:160]
            raise ConfigError(f"evaluate.clip: {name}: no CLIP in a folder or on the hub: {reason}") from None
        self.model = model.to(device).eval().requires_grad_(False)
        self.size = int(model.config.vision_config.image_size)

    @torch.no_grad()
    def texts(self, texts: Sequence[str], rows: int = 128) -> Tensor:
        """Return the embeddings of texts `(n, width)`, each of length 1; long texts are truncated."""
        found = [self._text(texts[start : start + rows]) for start in range(0, len(texts), rows)]
        return F.normalize(torch.cat(found).double(), dim=1)

    def _text(self, texts: Sequence[str]) -> Tensor:
        limit = self.model.config.text_config.max_position_embeddings
        tokens = self.tokenizer(
            list(texts), padding=True, truncation=True, max_length=limit, return_tensors="pt"
        ).to(self.model.device)
        pooled = self.model.text_model(**tokens).pooler_output
        return cast("Tensor", self.model.text_projection(pooled)).cpu()

    @torch.no_grad()
    def pictures(self, pictures: Tensor, rows: int = 64) -> Tensor:
        """Return embeddings `(n, width)` of length 1 of pictures `(n, 3, side, side)` in [-1, 1]."""
        found = [self._picture(part) for part in pictures.split(rows)]
        return F.normalize(torch.cat(found).double(), dim=1)

    def _picture(self, pictures: Tensor) -> Tensor:
        mean, spread = (torch.tensor(v, device=self.model.device).view(3, 1, 1) for v in (MEAN, SPREAD))
        whole = (pictures.to(self.model.device).float().clamp(-1, 1) + 1) / 2
        if whole.shape[-1] != self.size:
            whole = F.interpolate(whole, (self.size, self.size), mode="bicubic", antialias=True).clamp(0, 1)
        pooled = self.model.vision_model(pixel_values=(whole - mean) / spread).pooler_output
        return cast("Tensor", self.model.visual_projection(pooled)).cpu()


def clip_score(pictures: Tensor, texts: Tensor) -> float:
    """Return the mean over pairs of picture and text of max(cos, 0) (Hessel et al., arXiv 2104.08718, eq. 1).

    The paper's weight of 2.5, and that of 100 in some programs, is not applied.

    Args:
        pictures: embeddings `(n, width)` of length 1.
        texts: embeddings of their texts, of the same shape.
    """
    return float((pictures * texts).sum(1).clamp(min=0).mean())
