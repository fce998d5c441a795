"""A trained model of any kind."""

from collections.abc import Callable
from pathlib import Path

import pytest

from mmtoolkit.recommend.load import Model, load


@pytest.fixture
def trained_model(trained_run: Callable[..., Path]) -> Callable[..., Model]:
    """Load a model of the tiny settings with some changes; each call returns a new object."""

    def make(*changes: str) -> Model:
        return load(trained_run(*changes), device="cpu")

    return make
