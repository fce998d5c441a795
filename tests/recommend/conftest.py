"""A trained model of any kind."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmtoolkit.recommend.load import Model, load_model
from mmtoolkit.recommend.train import train


@pytest.fixture
def trained_model(
    tiny_settings: Callable[..., Any],
    new_run: Callable[..., Any],
    data_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., Model]:
    """Train the tiny settings with some changes on the tiny data set's folder, and load the run.

    No report is drawn: that takes most of the time, and other tests look at it.
    """
    monkeypatch.setattr("mmtoolkit.recommend.train.write_run_report", lambda *_: None)

    def make(*changes: str) -> Model:
        settings = tiny_settings(f"data.path={data_folder}", *changes)
        run = new_run(settings, f"run-{len(list(data_folder.parent.iterdir()))}")
        train(settings, run)
        return load_model(run.path, device="cpu")

    return make
