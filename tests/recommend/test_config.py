"""The table of the settings that each model reads, against the settings that it really reads."""

from contextlib import suppress
from typing import get_args

import numpy as np
import pytest

from mmtoolkit.core.config import idle_settings, setting_names
from mmtoolkit.core.errors import UsageError
from mmtoolkit.recommend.config import READ_BY, Kind, RecommendSettings
from mmtoolkit.recommend.evaluate import evaluate
from mmtoolkit.recommend.load import load
from mmtoolkit.recommend.predict import predict
from mmtoolkit.recommend.serving.explain import Explainer
from mmtoolkit.recommend.serving.new_items import place_items
from mmtoolkit.recommend.serving.new_users import fold_in
from mmtoolkit.recommend.similar import similar
from mmtoolkit.recommend.train import train

NAMES = list(setting_names(RecommendSettings))


def use_everywhere(model):
    """Call every function that uses a trained model."""
    evaluate(model)
    list(predict(model, np.array([1])))
    features = {name: one.features[:1] for name, one in model.data.modalities.items()}
    for call in (
        lambda: Explainer(model).explain(1, 2),
        lambda: place_items(model, features),
        lambda: list(fold_in(model, [np.array([1])])),
        lambda: list(similar(model, np.array([1]))),
    ):
        with suppress(UsageError):
            call()


@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize("kind", get_args(Kind))
def test_settings_that_are_called_idle_are_never_read(
    kind, tiny_settings, new_run, data_folder, record_reads
):
    changes = ["history.weight=1", "data.false_links=0.1", f"data.path={data_folder}"]
    settings = tiny_settings(f"model.kind={kind}", *changes)
    read = record_reads(RecommendSettings)
    run = new_run(settings)
    train(settings, run)
    use_everywhere(load(run.path, device="cpu"))
    assert idle_settings(settings, read & set(NAMES), READ_BY, "train") == {}
    assert {"model.kind", "evaluate.top_k"} <= read


def test_the_table_names_existing_settings_and_values(tiny_settings):
    for start, (deciding, readers) in READ_BY.items():
        names = [name for name in NAMES if name.startswith(start)]
        assert names
        for reader in readers:
            settings = tiny_settings(f"{deciding}={reader}")
            assert idle_settings(settings, names, {start: (deciding, readers)}, "train") == {}
