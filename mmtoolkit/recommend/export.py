"""Export representations for other systems: the function behind `mmtk recommend export`.

FOLDER/
  users.npy items.npy      representations, (users, width) and (items, width), float32
  user_ids.txt item_ids.txt  the id of each row
  items.faiss              inner-product index of the items
  history.npz              with `history.weight`: similarities of the items, (items, items), sparse
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
from mmtoolkit.core.run import check_new, write_atomic
from mmtoolkit.recommend.data.dataset import FloatArray
from mmtoolkit.recommend.load import Model, opened
from mmtoolkit.recommend.serving.names import Names, read_names

IndexKind = Literal["none", "flat", "hnsw"]
HNSW_LINKS, HNSW_BUILD, HNSW_SEARCH = 32, 200, 128
"""M, efConstruction and ef of Malkov and Yashunin 2018: links, and candidates in building and searching."""
CHECKED_USERS = 1000
"""Users whose lists an index is checked on."""


def export(
    model: Model | Path,
    output: Path,
    index: IndexKind = "none",
    top_k: int = 20,
    names: tuple[Names, Names] | None = None,
) -> dict[str, Any]:
    """Write the representations, and check the index against exact top-K lists.

    If the model has a history term, a score is the inner product plus the user's row of 0 and 1 times
    history.npz; the index contains only the inner products.

    Args:
        model: from :func:`mmtoolkit.recommend.load.load`, or the folder of a run.
        output: new or empty folder.
        index: `flat` (exact), `hnsw` (approximate, faster for many items) or `none`.
        top_k: length of the lists that are compared.
        names: ids of users and items; default: those of the data set folder.

    Returns:
        The content of export.json; with an index, `recall@K` is its share of the exact lists.

    Raises:
        UsageError: if the model has no embeddings, the folder is not empty, or faiss is not installed.
    """
    model = opened(model)
    users, items = (part.float().cpu().numpy() for part in model.representations("export"))
    check_new(output)
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
        logger.warning("an index of inner products lacks the history term of the scores; see history.npz")
        facts |= {"history_links": history.nnz}
    _write(output, (users, items), names or read_names(model), history, built)
    write_atomic(output / "export.json", json.dumps(facts, indent=2) + "\n")
    return facts


def _write(
    folder: Path,
    rows: tuple[FloatArray, FloatArray],
    names: tuple[Names, Names],
    history: sp.csr_array | None,
    index: Any,
) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"`output` {folder}: cannot be made: {error.strerror}") from None
    for kind, vectors, ids in zip(("user", "item"), rows, names, strict=True):
        np.save(folder / f"{kind}s.npy", np.ascontiguousarray(vectors))
        write_atomic(folder / f"{kind}_ids.txt", "".join(f"{ids.id(n)}\n" for n in range(len(vectors))))
    if history is not None:
        sp.save_npz(folder / "history.npz", history)
    if index is not None:
        need("faiss", "faiss", "the index").write_index(index, str(folder / "items.faiss"))


def index_recall(index: Any, users: FloatArray, items: FloatArray, top_k: int) -> float:
    """Return the share of the exact top-K items of evenly spaced users that an index finds.

    An item with the same score as the last of the exact list counts as found, so that ties do not matter.
    """
    chosen = np.linspace(0, len(users) - 1, min(CHECKED_USERS, len(users))).astype(np.int64)
    top_k = min(top_k, len(items))
    _, found = index.search(np.ascontiguousarray(users[chosen]), top_k)
    exact = users[chosen] @ items.T
    least = -np.sort(-exact, axis=1)[:, top_k - 1 : top_k]
    scores = np.where(found >= 0, np.take_along_axis(exact, np.maximum(found, 0), axis=1), -np.inf)
    return float((scores >= least - 1e-6 * np.abs(least)).mean())


def _flat(items: FloatArray) -> Any:
    index = need("faiss", "faiss", "`index` flat").IndexFlatIP(items.shape[1])
    index.add(np.ascontiguousarray(items))
    return index


def _hnsw(items: FloatArray) -> Any:
    faiss = need("faiss", "faiss", "`index` hnsw")
    index = faiss.IndexHNSWFlat(items.shape[1], HNSW_LINKS, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction, index.hnsw.efSearch = HNSW_BUILD, HNSW_SEARCH
    index.add(np.ascontiguousarray(items))
    return index


INDEXES: dict[str, Callable[[FloatArray], Any]] = {"flat": _flat, "hnsw": _hnsw}
