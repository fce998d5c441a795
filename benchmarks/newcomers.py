"""How well are items and users served that training never saw?

    python benchmarks/newcomers.py FOLDER [KEY=VALUE ...]

A tenth of the items and a tenth of the users of a data set (with features) are hidden, a model is trained
on the rest, then

- the hidden items are placed by their modalities and ranked among each other for every trained user, who
  should find those that he has in the whole data;
- the hidden users are folded in from their training items, and should find their test items among all.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import scipy.sparse as sp
import torch
from torch.nn import functional as F

from mmtoolkit.core.config import resolve, set_layers
from mmtoolkit.core.run import RunDirectory
from mmtoolkit.recommend.config import RecommendSettings
from mmtoolkit.recommend.data.dataset import SPLITS, RecommendData
from mmtoolkit.recommend.data.read import read_folder
from mmtoolkit.recommend.graphs.graph import modality_weights
from mmtoolkit.recommend.load import Model, load
from mmtoolkit.recommend.serving.new_items import place_items
from mmtoolkit.recommend.serving.new_users import fold_in_users
from mmtoolkit.recommend.train import train

TOP_K = 20


def write_rest(data: RecommendData, users: np.ndarray, items: np.ndarray, folder: Path) -> None:
    """Write the part of a data set that is not hidden; users without training are left out of `users`."""
    lines = ["userID\titemID\tx_label"]
    for label, name in enumerate(SPLITS):
        part = data.split(name)[users][:, items].tocoo()
        lines += [f"{user}\t{item}\t{label}" for user, item in zip(part.row, part.col, strict=True)]
    (folder / "rest.inter").write_text("\n".join(lines) + "\n")
    (folder / "i_id_mapping.csv").write_text(
        "id\titemID\n" + "".join(f"{i}\t{n}\n" for n, i in enumerate(items))
    )
    for name, modality in data.modalities.items():
        np.save(folder / f"{name}_feat.npy", modality.features[items])


def recall(scores: torch.Tensor, truth: sp.csr_array, seen: sp.csr_array | None = None) -> float:
    """Mean Recall@20 of the users with a positive, `(users, items)`."""
    if seen is not None:
        scores = scores.masked_fill(torch.from_numpy(seen.toarray() > 0), -torch.inf)
    best = scores.topk(TOP_K, dim=1).indices
    dense = torch.from_numpy(truth.toarray() > 0)
    found, there = dense.gather(1, best).sum(dim=1), dense.sum(dim=1)
    return float((found[there > 0] / there[there > 0]).mean())


def content_scores(
    model: Model, data: RecommendData, train: sp.csr_array, hidden: np.ndarray
) -> torch.Tensor:
    """Score hidden items by the cosine to the mean of a user's items, each modality times its weight."""
    weights = modality_weights(model.data.modalities, model.settings.data.modalities)
    total = torch.zeros(train.shape[0], len(hidden))
    for name, weight in weights.items():
        known = F.normalize(torch.from_numpy(model.data.modalities[name].features), dim=1).numpy()
        profile = F.normalize(torch.from_numpy(train @ known).float(), dim=1)
        new = F.normalize(torch.from_numpy(data.modalities[name].features[hidden]), dim=1)
        total += weight * profile @ new.T
    return total


def main() -> None:
    data = read_folder(Path(sys.argv[1]))
    rng = np.random.default_rng(0)
    new_items = np.sort(rng.choice(data.items, data.items // 10, replace=False))
    new_users = np.sort(rng.choice(data.users, data.users // 10, replace=False))
    items = np.setdiff1d(np.arange(data.items), new_items)
    users = np.setdiff1d(np.arange(data.users), new_users)
    history = data.train[:, items]
    users, new_users = (part[np.diff(history[part].indptr) > 0] for part in (users, new_users))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_rest(data, users, items, folder)
        resolved = resolve(RecommendSettings, set_layers([f"data.path={folder}", *sys.argv[2:]]))
        run = RunDirectory.new(folder / "run", resolved.to_yaml())
        result = train(resolved.settings, run)
        model = load(run.path, device="cpu")
    print(f"{torch.get_num_threads()} threads, {model.settings.model.kind}, best epoch {result.best_epoch}")
    whole = sp.csr_array(sum(data.split(split) for split in SPLITS))
    truth = whole[users][:, new_items]
    placed = place_items(model, {k: m.features[new_items] for k, m in data.modalities.items()})
    content = content_scores(model, data, model.data.train, new_items)
    popular = torch.from_numpy(np.asarray(whole[:, new_items].sum(axis=0))).float().expand(len(users), -1)
    print(f"{len(new_items)} hidden items for {len(users)} users, Recall@{TOP_K} among the hidden items:")
    print(f"  placed in the trained item space   {recall(model.users @ placed.vectors.T, truth):.4f}")
    print(f"  cosine to the user's mean features {recall(content, truth):.4f}")
    print(f"  at random                          {TOP_K / len(new_items):.4f}")
    print(f"  by their true, hidden popularity   {recall(popular, truth):.4f}")
    rows = history[new_users]
    parts = np.split(rows.indices.astype(np.int64), rows.indptr[1:-1])
    folded = fold_in_users(model, parts)
    counts = torch.from_numpy(np.asarray(model.data.train.sum(axis=0))).float()
    test = data.test[:, items]
    print(f"{len(new_users)} hidden users, test Recall@{TOP_K} among {len(items)} items:")
    print(f"  folded in                          {recall(folded @ model.items.T, test[new_users], rows):.4f}")
    everybody = counts.expand(len(new_users), -1)
    print(f"  the most popular items             {recall(everybody, test[new_users], rows):.4f}")
    trained = recall(model.users @ model.items.T, test[users], model.data.train)
    print(f"  (trained users, for comparison)    {trained:.4f}")


if __name__ == "__main__":
    main()
