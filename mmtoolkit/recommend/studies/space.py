"""Search spaces of settings: what `tune` searches, and how a user writes it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

from mmtoolkit.core.errors import UsageError

if TYPE_CHECKING:
    from optuna import Trial


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`; integers if both ends are integers."""

    low: float
    high: float
    logarithmic: bool = False

    def ends(self) -> list[Any]:
        """Return the values to validate before the search."""
        return [self.low, self.high]

    def contains(self, value: Any) -> bool:
        """Return whether a value is in the range."""
        return isinstance(value, int | float) and self.low <= value <= self.high

    def suggest(self, trial: "Trial", name: str) -> Any:
        """Ask Optuna for a value."""
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(name, self.low, self.high, log=self.logarithmic)
        return trial.suggest_float(name, self.low, self.high, log=self.logarithmic)


@dataclass(frozen=True)
class Choice:
    """One of some values."""

    values: tuple[Any, ...]

    def ends(self) -> list[Any]:
        """Return the values to validate before the search."""
        return list(self.values)

    def contains(self, value: Any) -> bool:
        """Return whether a value is one of them."""
        return value in self.values

    def suggest(self, trial: "Trial", name: str) -> Any:
        """Ask Optuna for a value."""
        return trial.suggest_categorical(name, self.values)


Space = Mapping[str, Range | Choice]

_RATE: Space = {"train.learning_rate": Range(5e-4, 1e-2, True)}
_PENALTY: Space = {"train.embedding_penalty": Range(1e-7, 1e-1, True)}
_LAYERS: Space = {"model.layers": Range(1, 4), "model.layer_combination": Choice(("last", "mean"))}
SPACES: dict[str, Space] = {
    "igdmrec": {
        **_RATE,
        **_LAYERS,
        "train.contrast_weight": Range(1e-3, 1.0, True),
        "history.weight": Range(0.0, 60.0),
        "history.graph_weight": Range(0.0, 0.5),
        "graph.semantic_share": Range(0.0, 1.0),
        "diffusion.guidance": Range(0.0, 8.0),
        "diffusion.condition_dropout_per": Choice(("batch", "row")),
        "graph.co_occurrence_threshold": Range(1, 3),
        "graph.behaviour_weights": Choice(("binary", "count")),
    },
    "freedom": {
        **_RATE,
        **_LAYERS,
        "peers.freedom_kept_edges": Range(0.1, 0.9),
        "peers.freedom_item_layers": Range(1, 2),
        "peers.freedom_modality_weight": Range(1e-5, 1e-1, True),
    },
    "vbpr": {**_RATE, **_PENALTY},
    "lightgcn": {**_RATE, **_PENALTY, "model.layers": Range(1, 4)},
    "bpr-mf": {**_RATE, **_PENALTY},
    "ease": {"peers.ease_ridge": Range(1.0, 1e4, True)},
    "item-knn": {"peers.knn_neighbours": Range(10, 1000, True), "peers.knn_shrinkage": Range(0.1, 1e3, True)},
    "popularity": {},
}
"""Default search space of each `model.kind`."""


def parse_space(texts: Sequence[str]) -> dict[str, Range | Choice]:
    """Read `key=low:high`, `key=low:high:log` and `key=a|b|c`.

    Raises:
        UsageError: naming the text that is none of these.
    """
    space: dict[str, Range | Choice] = {}
    for text in texts:
        name, _, values = text.partition("=")
        if "|" in values:
            try:
                space[name] = Choice(tuple(yaml.safe_load(part) for part in values.split("|")))
            except yaml.YAMLError:
                raise UsageError(f"`search` {text}: one of the values is not valid YAML") from None
            continue
        low, _, rest = values.partition(":")
        high, _, scale = rest.partition(":")
        try:
            ends = [int(x) if x.strip().isdecimal() else float(x) for x in (low, high)]
        except ValueError:
            ends = [1, 0]
        logarithmic = scale == "log"
        if (
            not name
            or not ends[0] < ends[1] < math.inf
            or scale not in ("", "log")
            or (logarithmic and ends[0] <= 0)
        ):
            raise UsageError(
                f"`search` {text}: write KEY=LOW:HIGH, KEY=LOW:HIGH:log (LOW above 0) or KEY=a|b|c"
            )
        space[name] = Range(ends[0], ends[1], logarithmic)
    return space
