"""Settings of the recommend engine; importing them loads no torch."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from mmtoolkit.core.config import ReadBy, Settings
from mmtoolkit.core.fields import Count, DeviceName, Fraction, Natural, Positive, Probability, Weight

Kind = Literal["igdmrec", "freedom", "vbpr", "lightgcn", "bpr-mf", "ease", "item-knn", "popularity"]

RESUMABLE = ("train.epochs", "train.patience", "train.checkpoint_every", "data.path", "device")
"""Settings that may change when a run is resumed, because an epoch computes the same with them."""

LEARNED: tuple[Kind, ...] = ("igdmrec", "freedom", "vbpr", "lightgcn", "bpr-mf")
_IGDMREC: tuple[str, tuple[Kind, ...]] = ("model.kind", ("igdmrec",))
_LEARNED: tuple[str, tuple[Kind, ...]] = ("model.kind", LEARNED)
READ_BY: ReadBy = {
    "precision": _IGDMREC,
    "graph.behaviour_": _IGDMREC,
    "graph.denoised_": _IGDMREC,
    "graph.search": _IGDMREC,
    "graph.semantic_share": _IGDMREC,
    "diffusion.": _IGDMREC,
    "model.embedding": _LEARNED,
    "model.layer": ("model.kind", ("igdmrec", "freedom", "lightgcn", "bpr-mf")),
    "model.item_graph": _IGDMREC,
    "history.": _IGDMREC,
    "peers.knn_": ("model.kind", ("item-knn",)),
    "peers.ease_": ("model.kind", ("ease",)),
    "peers.freedom_": ("model.kind", ("freedom",)),
    "train.epochs": _LEARNED,
    "train.patience": _LEARNED,
    "train.batch_size": _LEARNED,
    "train.learning_rate": _LEARNED,
    "train.contrast_": _IGDMREC,
    "train.embedding_penalty": _LEARNED,
}
"""Which models read which settings, in training or later; settings that are not listed are read by all."""


class DataSettings(Settings):
    """What to learn from."""

    path: Path | None = None
    """Folder with one `.inter` file and `<modality>_feat.npy` or `<modality>_knn10.npy`; or `demo`."""
    modalities: dict[str, Weight] = Field(default={})
    """Weight phi of each modality in the semantic graph; 0 leaves it out; empty: all, equally."""
    false_links: Probability = 0.0
    """Fraction of the links in the modalities' neighbour lists that are replaced by random items."""
    feature_noise: Weight = 0.0
    """Standard deviation of the noise added to the features, as a multiple of each feature's own."""

    @field_validator("path")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        """Keep a path that is valid in other working folders."""
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
    """Number of nearest items by cosine for each item and modality, including the item itself."""
    co_occurrence_threshold: Count = 3
    """Smallest number of users with both items that makes two items behavioural neighbours."""
    behaviour_neighbours: Natural = 10
    """Largest number of behavioural neighbours of an item, not counting the item itself."""
    behaviour_condition: bool = True
    """Condition the diffusion on the behavioural graph; if off, the condition rows are empty."""
    behaviour_weights: Literal["binary", "count"] = "binary"
    """Entries of the condition rows: 1 as published, or the co-occurrence divided by the row's largest."""
    denoised_neighbours: Count = 10
    """Number of largest entries of each denoised row that become edges."""
    denoised_weights: Literal["binary", "score"] = "binary"
    """Weight of those edges: 1, or the denoised entry if it is positive."""
    semantic_share: Probability = 0.0
    """Weight of the semantic graph in the recommender's item graph; the denoised graph has the rest. In the
    first epochs the two differ much. 0 as published."""
    search: Literal["auto", "all", "candidates"] = "auto"
    """Where the largest entries of a row are searched: among all items, or among the neighbours of the item
    in both graphs and their neighbours; `auto`: all items, for up to 200,000 items."""


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
    dropout: Fraction = 0.5
    """Dropout rate on the normalised encodings in training."""
    condition_dropout: Fraction = 0.1
    """Probability that the condition is replaced by zeros in training."""
    condition_dropout_per: Literal["batch", "row"] = "batch"
    """One draw per batch as published, or one per row."""
    guidance: Weight = 4.0
    """Strength omega of classifier-free guidance in denoising."""
    noise_vectors: Count = 256
    """Number of Gaussian vectors per batch; each row's noise is a random unit combination of them."""
    passes: Count = 5
    """Passes over all items in an epoch."""
    batch_size: Count = 4096
    """Items in a batch."""
    max_batches: Count = 6
    """Largest number of batches of a pass. For more items than batch_size * max_batches the batches grow
    instead, so that the cost is linear in the items and not quadratic."""
    learning_rate: Positive = 1e-3
    """Adam's step size for CD-Net."""

    def batch_of(self, items: int) -> int:
        """Return the number of rows of a batch for a catalogue of `items`."""
        return max(self.batch_size, -(-items // self.max_batches))

    @model_validator(mode="after")
    def _schedule_is_possible(self) -> Self:
        if self.noise_max < self.noise_min:
            raise ValueError("diffusion.noise_max must not be below diffusion.noise_min")
        if self.noise_scale * self.noise_max >= 1:
            raise ValueError("diffusion.noise_scale * noise_max must stay below 1 (a variance)")
        return self


class ModelSettings(Settings):
    """The recommender: IGDMRec (LightGCN plus one propagation on an item graph), or a peer."""

    kind: Kind = "igdmrec"
    """IGDMRec, or a peer to compare it with."""
    embedding: Count = 64
    """Width of the user and item embeddings."""
    layers: Natural = 2
    """LightGCN layers on the user-item graph."""
    layer_combination: Literal["last", "mean"] = "last"
    """Take the last layer as published, or the mean over layers as LightGCN does."""
    item_graph: Literal["denoised", "semantic"] = "denoised"
    """Graph of IGDMRec's item propagation; `semantic` disables the diffusion."""


class HistorySettings(Settings):
    """A term that IGDMRec's ranking adds to the inner product: similarities of an item to the user's history.

    An embedding of 64 numbers cannot keep every pair of items that people buy together; a sparse matrix can.
    The published method has no such term.
    """

    weight: Weight = 0.0
    """Factor on the sum of the similarities between the user's items and the item; 0 leaves the term out."""
    neighbours: Count = 500
    """Number of most similar items to whose scores an item of the history adds."""
    shrinkage: Weight = 50.0
    """Added to the denominator of the cosine between two items' users, so that rare pairs count less."""
    graph_weight: Weight = 0.0
    """Factor on the item graph in those similarities; it reaches items that no user shares yet."""


class PeerSettings(Settings):
    """Settings of single peers; all others are shared with IGDMRec."""

    knn_neighbours: Count = 500
    """item-knn: number of most similar items that add to the score of an item."""
    knn_shrinkage: Weight = 100.0
    """item-knn: added to the denominator of the cosine, so that rarely bought pairs count less."""
    ease_ridge: Positive = 250.0
    """ease: L2 penalty lambda on the item weights."""
    freedom_kept_edges: Annotated[float, Field(gt=0, le=1)] = 0.2
    """freedom: fraction of the user-item edges that an epoch uses."""
    freedom_item_layers: Natural = 1
    """freedom: number of propagations on the frozen item graph."""
    freedom_modality_weight: Weight = 1e-3
    """freedom: weight of the ranking loss on the projected features, if the data set has features."""


class TrainSettings(Settings):
    """Training of the networks; the closed forms (ease, item-knn, popularity) do not use it."""

    epochs: Count = 1000
    """Largest number of epochs."""
    patience: Count = 20
    """Number of epochs without a better validation score after which training stops."""
    monitor: Annotated[str, Field(pattern=r"^(recall|ndcg|precision|map)@\d+$")] = "recall@20"
    """Validation metric that picks the best epoch."""
    batch_size: Count = 2048
    """Interactions in a batch."""
    learning_rate: Positive = 1e-3
    """Adam's step size for the embeddings."""
    contrast_weight: Weight = 0.1
    """Weight of InfoNCE between the denoised and the semantic item representation."""
    contrast_on_semantic: bool = False
    """Keep InfoNCE with `model.item_graph: semantic`, although both views are then the same."""
    contrast_with: Literal["items", "batch"] = "items"
    """Contrast with all items as published, or only with the items of the batch, which is cheaper."""
    contrast_temperature: Positive = 0.2
    """Temperature tau of InfoNCE."""
    embedding_penalty: Weight = 1e-7
    """Weight of the squared norm of a batch's representations (peers: of its embeddings)."""
    checkpoint_every: Count = 1
    """Epochs between checkpoints; a better epoch is always saved."""


class EvaluateSettings(Settings):
    """Full ranking over all items."""

    top_k: tuple[Count, ...] = (5, 10, 20, 50)
    """Cut-offs of the metrics."""
    batch_size: Count = 1024
    """Largest number of users ranked at once; fewer for a large catalogue."""
    mask_validation: bool = False
    """On the test split, also exclude items that the user has in validation."""

    @field_validator("top_k")
    @classmethod
    def _sorted_cutoffs(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value:
            raise ValueError("needs at least one cut-off, as [20]")
        return tuple(sorted(set(value)))


class RecommendSettings(Settings):
    """All settings of `mmtk recommend`."""

    seed: Natural = 0
    """Seed of every random draw."""
    device: DeviceName = "auto"
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
