"""The table of what each model reads, against what it does read."""

import sys
from contextlib import suppress
from typing import get_args

import numpy as np
import pytest

from mmtoolkit.core.config import Settings, setting_names
from mmtoolkit.core.errors import UsageError
from mmtoolkit.recommend.config import READ_BY, Kind, RecommendSettings, idle_settings
from mmtoolkit.recommend.evaluation.metrics import evaluate
from mmtoolkit.recommend.predict import predict
from mmtoolkit.recommend.serving.explain import Explainer
from mmtoolkit.recommend.serving.newcomers import fold_in, place_items
from mmtoolkit.recommend.similar import similar_items

CHECKS = "mmtoolkit.recommend.config"
NAMES = list(setting_names(RecommendSettings))


@pytest.fixture
def read(monkeypatch):
    """Names of the settings that the engine reads from now on; checking and copying them do not count."""
    groups = {type(group): f"{name}." for name, group in RecommendSettings() if isinstance(group, Settings)}
    groups[RecommendSettings] = ""
    names, plain = set(), Settings.__getattribute__

    def noted(self, name):
        module = sys._getframe(1).f_globals["__name__"]
        if type(self) in groups and module.startswith("mmtoolkit.recommend.") and module != CHECKS:
            names.add(groups[type(self)] + name)
        return plain(self, name)

    monkeypatch.setattr(Settings, "__getattribute__", noted)
    return names


def serve(model):
    """Ask everything of a model that it can answer."""
    evaluate(model, "test")
    list(predict(model, np.array([1])))
    features = {name: one.features[:1] for name, one in model.data.modalities.items()}
    for answer in (
        lambda: Explainer(model).explain(1, 2),
        lambda: place_items(model, features),
        lambda: list(fold_in(model, [np.array([1])])),
        lambda: list(similar_items(model, np.array([1]))),
    ):
        with suppress(UsageError):
            answer()


@pytest.mark.parametrize("kind", get_args(Kind))
def test_what_is_called_idle_is_never_read(kind, trained_model, read):
    serve(trained_model(f"model.kind={kind}", "history.weight=1", "data.false_links=0.1"))
    assert idle_settings(kind, read) == []
    assert {"model.kind", "evaluate.top_k"} <= read


def test_the_table_names_settings_that_exist_and_models_that_read_them():
    for start, kinds in READ_BY.items():
        there = [name for name in NAMES if name.startswith(start)]
        assert there
        assert all(set(there).isdisjoint(idle_settings(kind, NAMES)) for kind in kinds)
