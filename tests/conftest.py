"""Fixtures that every test may use: tiny real data, folders, runs and the command line."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmtoolkit.commands.app import app
from typer.testing import CliRunner, Result

from mmtoolkit.core.config import Resolved, Settings, resolve, set_layers
from mmtoolkit.core.run import RunDirectory
from mmtoolkit.recommend.config import RecommendSettings
from mmtoolkit.recommend.data.dataset import RecommendData
from mmtoolkit.recommend.data.synthetic import Plan, make_demo
from mmtoolkit.recommend.train import train

TINY = [
    "diffusion.hidden=16",
    "diffusion.passes=2",
    "diffusion.batch_size=32",
    "model.embedding=8",
    "train.batch_size=64",
    "train.epochs=2",
    "train.learning_rate=0.01",
    "graph.co_occurrence_threshold=2",
]


@pytest.fixture(scope="session")
def tiny_data() -> RecommendData:
    """80 users, 60 items, 4 planted groups."""
    return make_demo(Plan(users=80, items=60, groups=4, mean_interactions=8), seed=3)


@pytest.fixture
def tiny_settings() -> Callable[..., RecommendSettings]:
    def make(*changes: str) -> RecommendSettings:
        return resolve(RecommendSettings, set_layers([*TINY, *changes])).settings

    return make


@pytest.fixture
def new_run(tmp_path: Path) -> Callable[..., RunDirectory]:
    def make(settings: RecommendSettings, name: str = "run") -> RunDirectory:
        return RunDirectory.new(tmp_path / name, Resolved.given(settings).to_yaml())

    return make


def write_folder(data: RecommendData, folder: Path) -> Path:
    """Write a data set in the format that users bring."""
    folder.mkdir()
    lines = ["userID\titemID\tx_label"]
    for label, name in enumerate(("train", "validation", "test")):
        coo = data.split(name).tocoo()
        lines += [f"{u}\t{i}\t{label}" for u, i in zip(coo.row, coo.col, strict=True)]
    (folder / "tiny.inter").write_text("\n".join(lines) + "\n")
    for name, modality in data.modalities.items():
        assert modality.features is not None
        np.save(folder / f"{name}_feat.npy", modality.features)
    return folder


@pytest.fixture(scope="session")
def tiny_folder(tiny_data: RecommendData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the tiny data set; tests only read it."""
    return write_folder(tiny_data, tmp_path_factory.mktemp("data") / "tiny")


@pytest.fixture
def data_folder(tiny_data: RecommendData, tmp_path: Path) -> Path:
    """A copy of that folder, for tests that change it."""
    return write_folder(tiny_data, tmp_path / "tiny")


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw no report: that takes most of the time of a tiny run, and other tests look at it."""
    monkeypatch.setattr(sys.modules[train.__module__], "write_run_report", lambda *_: None)


@pytest.fixture(scope="session")
def trained_run(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Train the tiny settings with some changes, once per session and without a report; only read the run."""
    folder, runs = tmp_path_factory.mktemp("recommend"), dict[tuple[str, ...], Path]()

    def make(*changes: str) -> Path:
        if changes not in runs:
            layers = set_layers([*TINY, f"data.path={tiny_folder}", *changes])
            runs[changes] = folder / f"run-{len(runs)}"
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(sys.modules[train.__module__], "write_run_report", lambda *_: None)
                train(resolve(RecommendSettings, layers).settings, runs[changes])
            torch.manual_seed(0)
        return runs[changes]

    return make


@pytest.fixture(scope="session")
def mmtk() -> Callable[..., Result]:
    def run(*arguments: Any) -> Result:
        return CliRunner().invoke(app, [str(a) for a in arguments])

    return run


@pytest.fixture
def record_reads(monkeypatch: pytest.MonkeyPatch) -> Callable[[type[Settings]], set[str]]:
    """Collect the dotted names of the settings that an engine reads; checks and copies do not count."""

    def record(settings_class: type[Settings]) -> set[str]:
        checks = settings_class.__module__
        engine = checks.rpartition(".")[0] + "."
        groups = {settings_class: ""} | {
            type(group): f"{name}." for name, group in settings_class() if isinstance(group, Settings)
        }
        names: set[str] = set()
        plain = Settings.__getattribute__

        def noted(self: Settings, name: str) -> Any:
            module = sys._getframe(1).f_globals["__name__"]
            if type(self) in groups and module.startswith(engine) and module != checks:
                names.add(groups[type(self)] + name)
            return plain(self, name)

        monkeypatch.setattr(Settings, "__getattribute__", noted)
        return names

    return record


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
