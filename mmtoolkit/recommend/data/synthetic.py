"""The embedded data set: shoppers, items and two modalities drawn from planted item groups.

Every item belongs to a group. Users prefer a few groups. Text and image features are noisy copies of the
centre of the item's group, and for some items of another group's. The k-NN graphs therefore contain false
links, and because the groups are known, the quality of denoising can be measured.
"""

from dataclasses import dataclass

import numpy as np

from mmtoolkit.recommend.data.dataset import (
    FloatArray,
    IntArray,
    Modality,
    RecommendData,
    interaction_matrix,
)


@dataclass(frozen=True)
class Plan:
    """Sizes and noise of a synthetic data set."""

    users: int = 3000
    items: int = 1200
    groups: int = 40
    mean_interactions: int = 12
    stray: float = 0.15
    """Share of interactions outside a user's groups."""
    mislabelled: float = 0.2
    """Share of items whose features point at a wrong group, drawn for each modality."""
    noise: tuple[float, float] = (1.1, 1.6)
    """Standard deviation of the text and image features around the centre of their group."""


def make_demo(plan: Plan = Plan(), seed: int = 7) -> RecommendData:
    """Draw a data set; the same plan and seed give the same data on every machine."""
    rng = np.random.default_rng(seed)
    groups = np.sort(rng.integers(0, plan.groups, plan.items))
    table = _draw_interactions(plan, groups, rng)
    splits = [interaction_matrix(table[table[:, 2] == label], plan.users, plan.items) for label in range(3)]
    text, image = (_draw_features(plan, groups, noise, rng) for noise in plan.noise)
    modalities = {"image": Modality(image, {}), "text": Modality(text, {})}
    return RecommendData("demo", splits[0], splits[1], splits[2], modalities, groups)


def _draw_interactions(plan: Plan, groups: IntArray, rng: np.random.Generator) -> IntArray:
    """Return rows of user, item and split; each user has two held-out and at least four training items."""
    popularity = rng.pareto(1.5, plan.items) + 0.2
    rows = []
    for user in range(plan.users):
        favourites = rng.choice(plan.groups, size=rng.integers(1, 4), replace=False)
        taste = np.where(np.isin(groups, favourites), popularity, 0)
        weight = (1 - plan.stray) * taste / max(taste.sum(), 1e-12)
        weight += plan.stray * popularity / popularity.sum()
        count = max(6, int(rng.poisson(plan.mean_interactions)))
        items = rng.choice(plan.items, size=count, replace=False, p=weight / weight.sum())
        labels = np.zeros(count, np.int64)
        labels[-2:] = 1, 2
        rows.append(np.stack([np.full(count, user), items, labels], axis=1))
    return np.concatenate(rows)


def _draw_features(
    plan: Plan, groups: IntArray, noise: float, rng: np.random.Generator, width: int = 24
) -> FloatArray:
    """Return `(items, width)` features: the centre of a group, sometimes a wrong one, plus noise."""
    centres = rng.normal(size=(plan.groups, width))
    wrong = rng.random(plan.items) < plan.mislabelled
    shown = np.where(wrong, rng.integers(0, plan.groups, plan.items), groups)
    features = centres[shown] + noise * rng.normal(size=(plan.items, width))
    return features.astype(np.float32)


def make_large(users: int, items: int, neighbours: int, each: int = 8, seed: int = 7) -> RecommendData:
    """Draw a data set for measurements of speed, in time linear in users and items.

    Args:
        users: number of users.
        items: number of items; only some of them are popular.
        neighbours: length of the random neighbour lists.
        each: largest number of training items of a user; one more item each is for validation and test.
        seed: of all draws.
    """
    rng = np.random.default_rng(seed)
    labels = np.repeat([0, 1, 2], [each, 1, 1])
    drawn = (items * rng.random((users, len(labels))) ** 2).astype(np.int64)
    table = np.stack([np.repeat(np.arange(users), len(labels)), drawn.ravel()], axis=1)
    split = np.tile(labels, users)
    splits = [interaction_matrix(table[split == label], users, items) for label in range(3)]
    near = rng.integers(0, items, (items, neighbours))
    near[:, 0] = np.arange(items)
    return RecommendData(
        "large", splits[0], splits[1], splits[2], {"text": Modality(None, {neighbours: near})}
    )
