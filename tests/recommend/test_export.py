"""Exported representations and the check of their index."""

import json

import numpy as np
import pytest
import scipy.sparse as sp

from mmtoolkit.core.errors import UsageError
from mmtoolkit.recommend.export import export, index_recall
from mmtoolkit.recommend.serving.names import Names


def names(model):
    return Names("user", model.data.users), Names("item", model.data.items, [f"i{n}" for n in range(60)])


def test_arrays_ids_and_an_exact_index(trained_model, tmp_path):
    faiss = pytest.importorskip("faiss")
    model = trained_model("model.kind=igdmrec")
    folder = tmp_path / "vectors"
    facts = export(model, folder, "flat", 10, names(model))
    assert facts["recall@10"] == 1
    assert json.loads((folder / "export.json").read_text()) == facts
    users, items = np.load(folder / "users.npy"), np.load(folder / "items.npy")
    assert np.array_equal(items, model.items.numpy())
    assert (folder / "item_ids.txt").read_text().splitlines()[7] == "i7"
    index = faiss.read_index(str(folder / "items.faiss"))
    scores, found = index.search(users[:5], 1)
    exact = users[:5] @ items.T
    assert np.allclose(scores[:, 0], exact.max(axis=1), atol=1e-6)
    assert found[:, 0].tolist() == exact.argmax(axis=1).tolist()


def test_the_history_term_is_exported(trained_model, tmp_path, caplog):
    model = trained_model("history.weight=3", "history.graph_weight=0.5")
    facts = export(model, tmp_path / "vectors", names=names(model))
    assert "history.npz" in caplog.text
    users, items = np.load(tmp_path / "vectors" / "users.npy"), np.load(tmp_path / "vectors" / "items.npy")
    history = sp.load_npz(tmp_path / "vectors" / "history.npz")
    assert facts["history_links"] == history.nnz > 0
    scores = users @ items.T + (model.data.train @ history).toarray()
    assert np.allclose(scores, model.scores(np.arange(len(users))), atol=1e-5)


def test_hnsw_and_no_index(trained_model, tmp_path):
    pytest.importorskip("faiss")
    model = trained_model("model.kind=igdmrec")
    assert export(model, tmp_path / "a", "hnsw", top_k=10)["recall@10"] > 0.9
    assert "recall@10" not in export(model, tmp_path / "b", "none", top_k=10)
    assert not (tmp_path / "b" / "items.faiss").exists()


def test_the_check_sees_a_bad_index():
    class Stuck:
        def search(self, users, top_k):
            return None, np.tile(np.r_[np.arange(top_k - 1), -1], (len(users), 1))

    rng = np.random.default_rng(0)
    users, items = (rng.normal(size=(n, 8)).astype(np.float32) for n in (50, 200))
    assert index_recall(Stuck(), users, items, 10) < 0.2


def test_export_refuses_models_folders_and_missing_packages(trained_model, tmp_path, monkeypatch):
    model = trained_model("model.kind=ease")
    with pytest.raises(UsageError, match="export needs user and item embeddings, and ease has none"):
        export(model, tmp_path / "a")
    model = trained_model("model.kind=lightgcn")
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "x").touch()
    with pytest.raises(UsageError, match="already there and not empty"):
        export(model, tmp_path / "used")
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    with pytest.raises(UsageError, match=r"pip install .*\[faiss\]'"):
        export(model, tmp_path / "a", "flat")
    assert not (tmp_path / "a").exists()
