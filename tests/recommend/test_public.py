"""The names that `from mmtoolkit import recommend` offers."""

import subprocess
import sys

import numpy as np
import pytest

from mmtoolkit import recommend


def test_importing_the_engine_loads_nothing_heavy():
    code = (
        "import sys; import mmtoolkit.recommend as r; r.__all__\n"
        "print([m for m in ('torch', 'numpy', 'scipy', 'pydantic') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_public_names_resolve():
    for name in recommend.__all__:
        assert getattr(recommend, name).__name__ == name


@pytest.mark.usefixtures("no_report")
def test_a_folder_is_enough_to_train_and_to_use_a_run(tiny_folder, tmp_path):
    settings = recommend.RecommendSettings(
        model={"kind": "bpr-mf", "embedding": 4}, data={"path": tiny_folder}, train={"epochs": 2}
    )
    result = recommend.train(settings, tmp_path / "run")
    assert recommend.train(settings, tmp_path / "run", resume=True) == result
    assert recommend.evaluate(tmp_path / "run").metrics.items() >= result.test.items()
    lists = list(recommend.predict(tmp_path / "run", top_k=3))
    assert [len(one.items) for one in lists] == [3] * 80
    assert next(recommend.similar(tmp_path / "run", np.array([5]))).key == 5
    facts = recommend.export(tmp_path / "run", tmp_path / "vectors")
    assert (facts["users"], facts["items"], facts["width"]) == (80, 60, 4)
