"""Representations as files for other systems: `.npy`, and a faiss index checked against exact ranking.

FOLDER/
  users.npy items.npy      representations, (users, width) and (items, width), float32
  user_ids.txt item_ids.txt  the id of each row
  items.faiss              inner-product index of the items
  history.npz              with `history.weight`: what a user has speaks for an item, (items, items), sparse
  export.json              sizes, and the recall of the index
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import scipy.sparse as sp

from mmtoolkit.core.errors import UsageError
from mmtoolkit.core.extras import need
from mmtoolkit.core.logging import logger
from mmtoolkit.core.run import write_atomic
from mmtoolkit.recommend.data.dataset import FloatArray
from mmtoolkit.recommend.load import Model
from mmtoolkit.recommend.predict import representations
from mmtoolkit.recommend.serving.names import Names

IndexKind = Literal["none", "flat", "hnsw"]
HNSW_LINKS, HNSW_BUILD, HNSW_SEARCH = 32, 200, 128
CHECKED_USERS = 1000


def export(
    model: Model, names: tuple[Names, Names], folder: Path, index: IndexKind = "none", top_k: int = 20
) -> dict[str, Any]:
    """Write the representations, and check the index against exact top-K lists.

    Args:
        model: from :func:`mmtoolkit.recommend.load.load_model`. Where it has a history part, a score is
            the inner product plus the user's row of 0 and 1 times history.npz; the index knows of the
            first alone.
        names: ids of users and items.
        folder: new or empty.
        index: `flat` (exact), `hnsw` (approximate, faster on many items) or `none`.
        top_k: length of the lists that are compared.

    Returns:
        What export.json says; with an index `recall@K`, its share of the exact lists.

    Raises:
        UsageError: if the model has no embeddings, the folder is not empty, or faiss is not installed.
    """
    users, items = (part.float().cpu().numpy() for part in representations(model, "export"))
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"--output {folder}: already there and not empty; name another folder")
    built = None if index == "none" else INDEXES[index](items)
    facts: dict[str, Any] = {
        "users": len(users),
        "items": len(items),
        "width": items.shape[1],
        "index": index,
    }
    if built is not None:
        facts |= {"checked_users": min(CHECKED_USERS, len(users))}
        facts |= {f"recall@{top_k}": index_recall(built, users, items, top_k)}
    history = None if model.history is None else sp.csr_array(model.history.weights)
    if history is not None:
        logger.warning("scores have a part that no index of inner products holds: history.npz (docs, Serve)")
        facts |= {"history_links": history.nnz}
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--output {folder}: cannot be made: {error.strerror}") from None
    for kind, rows, ids in zip(("user", "item"), (users, items), names, strict=True):
        np.save(folder / f"{kind}s.npy", np.ascontiguousarray(rows))
        write_atomic(folder / f"{kind}_ids.txt", "".join(f"{ids.id(n)}\n" for n in range(len(rows))))
    if history is not None:
        sp.save_npz(folder / "history.npz", history)
    if built is not None:
        need("faiss", "faiss", "the index").write_index(built, str(folder / "items.faiss"))
    write_atomic(folder / "export.json", json.dumps(facts, indent=2) + "\n")
    return facts


def index_recall(index: Any, users: FloatArray, items: FloatArray, top_k: int) -> float:
    """Return the share of the exact top-K items of evenly spaced users that an index finds.

    An item that scores as high as the last of the exact list counts as found, so that ties cost nothing.
    """
    chosen = np.linspace(0, len(users) - 1, min(CHECKED_USERS, len(users))).astype(np.int64)
    top_k = min(top_k, len(items))
    _, found = index.search(np.ascontiguousarray(users[chosen]), top_k)
    exact = users[chosen] @ items.T
    least = -np.sort(-exact, axis=1)[:, top_k - 1 : top_k]
    scores = np.where(found >= 0, np.take_along_axis(exact, np.maximum(found, 0), axis=1), -np.inf)
    return float((scores >= least - 1e-6 * np.abs(least)).mean())


def _flat(items: FloatArray) -> Any:
    index = need("faiss", "faiss", "--index flat").IndexFlatIP(items.shape[1])
    index.add(np.ascontiguousarray(items))
    return index


def _hnsw(items: FloatArray) -> Any:
    faiss = need("faiss", "faiss", "--index hnsw")
    index = faiss.IndexHNSWFlat(items.shape[1], HNSW_LINKS, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction, index.hnsw.efSearch = HNSW_BUILD, HNSW_SEARCH
    index.add(np.ascontiguousarray(items))
    return index


INDEXES: dict[str, Callable[[FloatArray], Any]] = {"flat": _flat, "hnsw": _hnsw}
