from dataclasses import replace

import numpy as np
import pytest
import torch

from mmtoolkit.core.errors import DataError
from mmtoolkit.recommend.data.dataset import Modality, RecommendData
from mmtoolkit.recommend.graphs.graph import semantic_graph
from mmtoolkit.recommend.graphs.noise import add_data_noise, add_noise, false_links

CPU = torch.device("cpu")


def test_false_links_replace_the_wanted_share_and_spare_self_links():
    lists = np.stack([np.arange(500)] * 1 + [(np.arange(500) + k) % 500 for k in range(1, 10)], axis=1)
    spoilt = false_links(lists, 0.3, np.random.default_rng(0))
    assert (spoilt[:, 0] == np.arange(500)).all()
    assert (spoilt[:, 1:] != lists[:, 1:]).mean() == pytest.approx(0.3, abs=0.02)
    assert (false_links(lists, 0.0, np.random.default_rng(0)) == lists).all()


def test_noise_has_the_wanted_size_and_leaves_unknown_items_unknown():
    features = np.random.default_rng(1).normal(size=(2000, 3)).astype(np.float32) * [1, 10, 100]
    features[5] = 0
    noisy = add_noise(features.astype(np.float32), 0.5, np.random.default_rng(0))
    assert (noisy - features).std(axis=0) == pytest.approx(0.5 * features.std(axis=0), rel=0.1)
    assert not noisy[5].any()


def test_noisy_data_depend_on_the_seed_and_reach_the_graph(tiny_data: RecommendData, tiny_settings):
    def graph(*changes):
        settings = tiny_settings(*changes)
        return semantic_graph(add_data_noise(tiny_data, settings, CPU), settings.data, 10, CPU)

    clean = graph()
    for change in ("data.false_links=0.4", "data.feature_noise=1"):
        assert (graph(change) != clean).nnz > 0
        assert (graph(change) != graph(change)).nnz == 0
        assert (graph(change) != graph(change, "seed=1")).nnz > 0


def test_noise_needs_features(tiny_data: RecommendData, tiny_settings):
    data = replace(tiny_data, modalities={"text": Modality(None, {10: np.zeros((60, 10), np.int64)})})
    with pytest.raises(DataError, match=r"add text_feat\.npy or use data\.false_links"):
        add_data_noise(data, tiny_settings("data.feature_noise=1"), CPU)
    assert (
        add_data_noise(data, tiny_settings("data.false_links=1"), CPU).modalities["text"].neighbours[10].any()
    )
