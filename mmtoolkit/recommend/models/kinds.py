"""The models by `model.kind`: IGDMRec and its peers."""

from collections.abc import Callable

import torch

from mmtoolkit.recommend.config import RecommendSettings
from mmtoolkit.recommend.data.dataset import RecommendData
from mmtoolkit.recommend.graphs.noise import add_data_noise
from mmtoolkit.recommend.models.igdmrec import Igdmrec
from mmtoolkit.recommend.models.learner import Learner
from mmtoolkit.recommend.models.peers.closed import Ease, ItemKnn, Popularity
from mmtoolkit.recommend.models.peers.learned import BprMf, Freedom, LightGcn, Vbpr

LEARNERS: dict[str, Callable[[RecommendSettings, RecommendData, torch.device], Learner]] = {
    "igdmrec": Igdmrec,
    "freedom": Freedom,
    "vbpr": Vbpr,
    "lightgcn": LightGcn,
    "bpr-mf": BprMf,
    "ease": Ease,
    "item-knn": ItemKnn,
    "popularity": Popularity,
}
"""By `model.kind`."""


def make_learner(settings: RecommendSettings, data: RecommendData, device: torch.device) -> Learner:
    """Return the untrained model of `model.kind`, on data with the noise that the settings ask for."""
    return LEARNERS[settings.model.kind](settings, add_data_noise(data, settings, device), device)
