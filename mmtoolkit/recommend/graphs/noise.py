"""Add noise to a data set, to measure how robust a model is to false links and noisy features."""

from dataclasses import replace

import numpy as np
import torch

from mmtoolkit.core.errors import DataError
from mmtoolkit.recommend.config import RecommendSettings
from mmtoolkit.recommend.data.dataset import FloatArray, IntArray, Modality, RecommendData
from mmtoolkit.recommend.graphs.graph import nearest_neighbours


def add_data_noise(data: RecommendData, settings: RecommendSettings, device: torch.device) -> RecommendData:
    """Add `data.feature_noise` to the features and put `data.false_links` into the neighbour lists.

    The seed of the run determines both; they do not change the random numbers of training.

    Raises:
        DataError: if features should get noise and a modality has none.
    """
    noise, links = settings.data.feature_noise, settings.data.false_links
    if not noise and not links:
        return data
    rng = np.random.default_rng([settings.seed, 0x5EED])
    modalities = dict(data.modalities)
    if noise:
        modalities = {name: _noisy(name, x, noise, rng) for name, x in modalities.items()}
    if links:
        k = settings.graph.neighbours
        for name, x in modalities.items():
            lists = {length: false_links(of, links, rng) for length, of in _lists(x, k, device).items()}
            modalities[name] = Modality(x.features, lists)
    return replace(data, modalities=modalities)


def _noisy(name: str, modality: Modality, amount: float, rng: np.random.Generator) -> Modality:
    if modality.features is None:
        raise DataError(
            f"data.feature_noise: modality '{name}' has no features, only neighbour lists; "
            f"add {name}_feat.npy or use data.false_links"
        )
    return Modality(add_noise(modality.features, amount, rng), {})


def _lists(modality: Modality, k: int, device: torch.device) -> dict[int, IntArray]:
    """Return the neighbour lists of the semantic graph; without features, the existing ones."""
    if k in modality.neighbours or modality.features is None:
        return dict(modality.neighbours)
    return {k: nearest_neighbours(modality.features, k, device)}


def add_noise(features: FloatArray, amount: float, rng: np.random.Generator) -> FloatArray:
    """Add Gaussian noise, `amount` times each column's standard deviation; empty rows stay empty."""
    noise = amount * features.std(axis=0) * rng.standard_normal(features.shape, dtype=np.float32)
    return np.where(features.any(axis=1, keepdims=True), features + noise, features).astype(np.float32)


def false_links(lists: IntArray, share: float, rng: np.random.Generator) -> IntArray:
    """Replace a fraction of the links of neighbour lists, `(items, k)`, by random items; self links stay."""
    own = lists == np.arange(len(lists))[:, None]
    wrong = (rng.random(lists.shape) < share) & ~own
    return np.where(wrong, rng.integers(0, len(lists), lists.shape), lists)
