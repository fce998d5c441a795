"""Settings of the recommend engine; importing them loads no torch."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from mmtoolkit.core.config import Settings

Count = Annotated[int, Field(ge=1)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, lt=1)]
Kind = Literal["igdmrec", "freedom", "vbpr", "lightgcn", "bpr-mf", "ease", "item-knn", "popularity"]

RESUMABLE = ("train.epochs", "train.patience", "train.checkpoint_every", "data.path", "device")
"""Settings that may change when a run is resumed: they do not change what an epoch computes."""

LEARNED: tuple[Kind, ...] = ("igdmrec", "freedom", "vbpr", "lightgcn", "bpr-mf")
READ_BY: dict[str, tuple[Kind, ...]] = {
    "precision": ("igdmrec",),
    "graph.behaviour_": ("igdmrec",),
    "graph.denoised_": ("igdmrec",),
    "graph.search": ("igdmrec",),
    "graph.semantic_share": ("igdmrec",),
    "diffusion.": ("igdmrec",),
    "model.embedding": LEARNED,
    "model.layer": ("igdmrec", "freedom", "lightgcn", "bpr-mf"),
    "model.item_graph": ("igdmrec",),
    "history.": ("igdmrec",),
    "peers.knn_": ("item-knn",),
    "peers.ease_": ("ease",),
    "peers.freedom_": ("freedom",),
    "train.epochs": LEARNED,
    "train.patience": LEARNED,
    "train.batch_size": LEARNED,
    "train.learning_rate": LEARNED,
    "train.contrast_": ("igdmrec",),
    "train.embedding_penalty": LEARNED,
}
"""Models that read the settings whose names begin so, in training or served; nothing is said of others."""


class DataSettings(Settings):
    """What to learn from."""

    path: Path | None = None
    """Folder with one `.inter` file and `<modality>_feat.npy` or `<modality>_knn10.npy`; or `demo`."""
    modalities: dict[str, Weight] = Field(default={})
    """Weight phi of each modality in the semantic graph; 0 leaves it out; empty: all, equally."""
    false_links: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the links in the modalities' neighbour lists that are replaced by random items."""
    feature_noise: Weight = 0.0
    """Gaussian noise added to the features, as a multiple of each feature's deviation."""

    @field_validator("path")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        """Let a run be found again from another working folder."""
        return value if value is None or str(value) == "demo" else value.absolute()

    @field_validator("modalities")
    @classmethod
    def _some_weight(cls, value: dict[str, float]) -> dict[str, float]:
        if value and not any(value.values()):
            raise ValueError("at least one modality needs a weight above 0")
        return value


class GraphSettings(Settings):
    """The three item graphs."""

    neighbours: Count = 10
    """Nearest items of each item and modality by cosine, itself included."""
    co_occurrence_threshold: Count = 3
    """Fewest users who must share two items before the items are behavioural neighbours."""
    behaviour_neighbours: Annotated[int, Field(ge=0)] = 10
    """Most behavioural neighbours of an item, itself not counted."""
    behaviour_condition: bool = True
    """Condition the diffusion on the behavioural graph; off: every item's condition row is empty."""
    behaviour_weights: Literal["binary", "count"] = "binary"
    """Entries of the condition rows: 1 as published, or the co-occurrence as a share of the row's largest."""
    denoised_neighbours: Count = 10
    """Largest entries of each denoised row that become edges."""
    denoised_weights: Literal["binary", "score"] = "binary"
    """Weight of those edges: 1, or the denoised entry itself where it is positive."""
    semantic_share: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the semantic graph in the item graph that the recommender uses beside the denoised one, which
    is far from it in the first epochs; 0 as published."""
    search: Literal["auto", "all", "candidates"] = "auto"
    """Where those entries are looked for: among all items, or among an item's neighbours in the semantic
    and the behavioural graph and their neighbours; `auto`: all items up to 200,000."""


class DiffusionSettings(Settings):
    """Behaviour-conditioned graph diffusion and its network CD-Net."""

    steps: Count = 5
    """Noise levels T."""
    noise_scale: Positive = 0.01
    """Factor on both ends of the linear variance schedule."""
    noise_min: Positive = 1e-4
    """Variance of the first level before scaling."""
    noise_max: Positive = 2e-2
    """Variance of the last level before scaling."""
    hidden: Count = 2000
    """Width h of CD-Net."""
    time_embedding: Annotated[int, Field(ge=2, multiple_of=2)] = 10
    """Width of the time embedding."""
    dropout: Share = 0.5
    """Dropout on the normalised encodings while training."""
    condition_dropout: Share = 0.1
    """Probability that the condition is replaced by zeros while training."""
    condition_dropout_per: Literal["batch", "row"] = "batch"
    """One draw for a whole batch as published, or one for each row."""
    guidance: Weight = 4.0
    """Strength omega of classifier-free guidance while denoising."""
    noise_vectors: Count = 256
    """Gaussian vectors shared by a batch, of which every row's noise is a random unit combination."""
    passes: Count = 5
    """Passes over all items in an epoch."""
    batch_size: Count = 4096
    """Items in a batch."""
    max_batches: Count = 6
    """Most batches of a pass: beyond batch_size times this many items, batches grow instead, so that cost
    grows with the items and not with their square."""
    learning_rate: Positive = 1e-3
    """Adam's step size for CD-Net."""

    def batch_of(self, items: int) -> int:
        """Return the rows of a batch for a catalogue of `items`."""
        return max(self.batch_size, -(-items // self.max_batches))

    @model_validator(mode="after")
    def _schedule_is_possible(self) -> Self:
        if self.noise_max < self.noise_min:
            raise ValueError("diffusion.noise_max must not lie below diffusion.noise_min")
        if self.noise_scale * self.noise_max >= 1:
            raise ValueError("diffusion.noise_scale * noise_max must stay below 1 (a variance)")
        return self


class ModelSettings(Settings):
    """The recommender: IGDMRec (LightGCN plus one propagation on an item graph), or a peer."""

    kind: Kind = "igdmrec"
    """Which model: IGDMRec, or a peer to compare it with."""
    embedding: Count = 64
    """Width of the user and item embeddings."""
    layers: Annotated[int, Field(ge=0)] = 2
    """LightGCN layers on the user-item graph."""
    layer_combination: Literal["last", "mean"] = "last"
    """Take the last layer as published, or the mean over layers as LightGCN does."""
    item_graph: Literal["denoised", "semantic"] = "denoised"
    """Graph of IGDMRec's item propagation; `semantic` switches the diffusion off."""


class HistorySettings(Settings):
    """What a user's history says of an item directly, added to IGDMRec's inner product when ranking.

    Sixty-four numbers cannot keep every pair of items that people buy together; a sparse matrix can. The
    published method has no such term.
    """

    weight: Weight = 0.0
    """Factor on the sum, over what the user has, of the similarities to the item; 0 leaves it out."""
    neighbours: Count = 500
    """Most similar items that an item of the history speaks for."""
    shrinkage: Weight = 50.0
    """Added to the denominator of the cosine of two items' users, so that rare pairs count less."""
    graph_weight: Weight = 0.0
    """Factor on the item graph in those similarities, for items that nobody shares yet."""


class PeerSettings(Settings):
    """What only one of the peers has; the rest they share with IGDMRec."""

    knn_neighbours: Count = 500
    """item-knn: most similar items that vote for an item."""
    knn_shrinkage: Weight = 100.0
    """item-knn: added to the denominator of the cosine, so that rarely bought pairs count less."""
    ease_ridge: Positive = 250.0
    """ease: L2 penalty lambda on the item weights."""
    freedom_kept_edges: Annotated[float, Field(gt=0, le=1)] = 0.2
    """freedom: share of the user-item edges that an epoch propagates on."""
    freedom_item_layers: Annotated[int, Field(ge=0)] = 1
    """freedom: propagations on the frozen item graph."""
    freedom_modality_weight: Weight = 1e-3
    """freedom: weight of the ranking loss on the projected features, where there are features."""


class TrainSettings(Settings):
    """Training of the networks; the closed forms (ease, item-knn, popularity) need none of it."""

    epochs: Count = 1000
    """Most epochs."""
    patience: Count = 20
    """Epochs without a better validation score after which training stops."""
    monitor: Annotated[str, Field(pattern=r"^(recall|ndcg|precision|map)@\d+$")] = "recall@20"
    """Validation metric that picks the best epoch."""
    batch_size: Count = 2048
    """Interactions in a batch."""
    learning_rate: Positive = 1e-3
    """Adam's step size for the embeddings."""
    contrast_weight: Weight = 0.1
    """Weight of InfoNCE between the denoised and the semantic item representation."""
    contrast_on_semantic: bool = False
    """Keep InfoNCE with `model.item_graph: semantic` too, where both views are the same."""
    contrast_with: Literal["items", "batch"] = "items"
    """Contrast with all items as published, or with those of the batch alone, which costs less."""
    contrast_temperature: Positive = 0.2
    """Temperature tau of InfoNCE."""
    embedding_penalty: Weight = 1e-7
    """Weight of the squared norm of the representations in use (peers: of the embeddings in use)."""
    checkpoint_every: Count = 1
    """Epochs between checkpoints; a better epoch is always kept."""


class EvaluateSettings(Settings):
    """Full ranking over all items."""

    top_k: tuple[Count, ...] = (5, 10, 20, 50)
    """Cut-offs of the metrics."""
    batch_size: Count = 1024
    """Users ranked at once, at most; fewer where the catalogue is large."""
    mask_validation: bool = False
    """On the test split, also leave out items that the user has in validation."""

    @field_validator("top_k")
    @classmethod
    def _sorted_cutoffs(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value:
            raise ValueError("needs at least one cut-off, as [20]")
        return tuple(sorted(set(value)))


class RecommendSettings(Settings):
    """All settings of `mmtk recommend`."""

    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of every random draw."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Precision of CD-Net's large products; weights and the final ranking stay float32."""
    data: DataSettings = DataSettings()
    graph: GraphSettings = GraphSettings()
    diffusion: DiffusionSettings = DiffusionSettings()
    model: ModelSettings = ModelSettings()
    history: HistorySettings = HistorySettings()
    peers: PeerSettings = PeerSettings()
    train: TrainSettings = TrainSettings()
    evaluate: EvaluateSettings = EvaluateSettings()

    @model_validator(mode="after")
    def _monitor_is_measured(self) -> Self:
        cutoff = int(self.train.monitor.partition("@")[2])
        if cutoff not in self.evaluate.top_k:
            raise ValueError(
                f"train.monitor: {self.train.monitor} is not measured; "
                f"add {cutoff} to evaluate.top_k {list(self.evaluate.top_k)}"
            )
        return self


def idle_settings(kind: Kind, names: Iterable[str]) -> list[str]:
    """Return those of some settings that a model does not read, by :data:`READ_BY`."""
    return [
        name
        for name in names
        if any(name.startswith(start) and kind not in kinds for start, kinds in READ_BY.items())
    ]
