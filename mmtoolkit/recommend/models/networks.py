"""The two networks: CD-Net, which denoises rows of the item graph, and the recommender."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmtoolkit.recommend.config import DiffusionSettings, ModelSettings
from mmtoolkit.recommend.graphs.graph import Graph
from mmtoolkit.recommend.models.losses import product


class CDNet(nn.Module):
    """Predict clean rows of the item graph from noisy ones and behavioural conditions (section III-C).

    The row and its condition share one linear encoder `items -> hidden`; one linear decoder maps back. This
    class only computes what happens in `hidden` dimensions: encoding a sparse row and decoding are linear, so
    that :mod:`mmtoolkit.recommend.models.diffusion` never makes a dense row of `items` numbers.
    """

    def __init__(self, items: int, settings: DiffusionSettings, dtype: torch.dtype) -> None:
        """Make the layers; `dtype` is the precision of the products, not of the weights."""
        super().__init__()
        hidden, width = settings.hidden, settings.time_embedding
        self.dtype = dtype
        self.dropout = settings.dropout
        self.time_width = width
        self.encoder = nn.Parameter(torch.empty(items, hidden))
        self.encoder_bias = nn.Parameter(torch.empty(hidden))
        self.decoder = nn.Parameter(torch.empty(items, hidden))
        self.decoder_bias = nn.Parameter(torch.empty(items))
        self.time = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
        self.mix = nn.Linear(2 * hidden + width, hidden)
        for parameter, fan_in in (
            (self.encoder, items),
            (self.encoder_bias, items),
            (self.decoder, hidden),
            (self.decoder_bias, hidden),
        ):
            nn.init.uniform_(parameter, -(fan_in**-0.5), fan_in**-0.5)

    @property
    def row_mixing(self) -> Tensor:
        """Weights of the mixing layer for an encoded noisy row, `(hidden, hidden)`."""
        return self.mix.weight[:, : self.encoder.shape[1]].T

    def row_part(self, encoded: Tensor) -> Tensor:
        """Mix an encoded noisy row, `(batch, hidden)` to `(batch, hidden)`."""
        return product(self.unit(encoded), self.row_mixing, self.dtype)

    def condition_part(self, encoded: Tensor) -> Tensor:
        """Mix an encoded condition, `(batch, hidden)` to `(batch, hidden)`."""
        hidden = self.encoder.shape[1]
        return product(self.unit(encoded), self.mix.weight[:, hidden : 2 * hidden].T, self.dtype)

    def time_part(self, steps: Tensor) -> Tensor:
        """Mix the noise level and the bias, `(batch,)` to `(batch, hidden)`."""
        embedded = self.time(sinusoidal_embedding(steps, self.time_width))
        return F.linear(embedded, self.mix.weight[:, 2 * self.encoder.shape[1] :], self.mix.bias)

    def unit(self, encoded: Tensor) -> Tensor:
        """Normalise encoded rows, `(batch, hidden)`, to length 1 and, in training, apply dropout."""
        unit = F.normalize(encoded, dim=1)
        return drop_entries(unit, self.dropout) if self.training and self.dropout else unit


def drop_entries(x: Tensor, share: float) -> Tensor:
    """Set a share of the entries to zero and scale the others so that the mean stays the same (dropout).

    Each entry uses 16 bits of a draw of 64 bits. Torch's own dropout makes a draw for every entry, which
    takes 7 % of a training pass on a CPU.
    """
    draws = torch.empty(-(-x.numel() // 4), dtype=torch.int64, device=x.device).random_(-(2**63), None)
    random_bits = draws.view(torch.int16)[: x.numel()].view_as(x)
    kept = random_bits >= round(share * 2**16) - 2**15
    return x * (kept / (1 - share))


def sinusoidal_embedding(steps: Tensor, width: int) -> Tensor:
    """Embed integers as cosines and sines of falling frequency, `(batch,)` to `(batch, width)`."""
    half = width // 2
    powers = torch.arange(half, device=steps.device, dtype=torch.float32) / half
    angles = steps[:, None].float() * 10_000.0**-powers
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class Recommender(nn.Module):
    """LightGCN on users and items, plus one propagation of the items on an item graph (step 6)."""

    def __init__(self, users: int, items: int, settings: ModelSettings) -> None:
        """Make Xavier-uniform embeddings."""
        super().__init__()
        self.users = nn.Parameter(torch.empty(users, settings.embedding))
        self.items = nn.Parameter(torch.empty(items, settings.embedding))
        self.layers = settings.layers
        self.mean_of_layers = settings.layer_combination == "mean"
        nn.init.xavier_uniform_(self.users)
        nn.init.xavier_uniform_(self.items)

    def collaborative(self, user_item: Graph) -> tuple[Tensor, Tensor]:
        """Propagate on the user-item graph (LightGCN, He et al. 2020).

        Returns:
            `(users, width)` and `(items, width)`: the last layer, or the mean of all.
        """
        x = torch.cat([self.users, self.items])
        layers = [x]
        for _ in range(self.layers):
            layers.append(user_item.propagate(layers[-1]))
        final = torch.stack(layers).mean(dim=0) if self.mean_of_layers else layers[-1]
        users, items = final.split([len(self.users), len(self.items)])
        return users, items

    def forward(self, user_item: Graph, item_graph: Graph) -> tuple[Tensor, Tensor]:
        """Return the representations `(users, width)` and `(items, width)`, scored by inner product."""
        users, items = self.collaborative(user_item)
        return users, items + item_graph.propagate(self.items)
