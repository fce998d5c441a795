"""Train IGDMRec: each epoch teaches CD-Net, denoises the item graph and teaches the recommender."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor
from torch.nn import functional as F

from mmtoolkit.core.checkpoint import (
    BEST,
    Checkpoint,
    find_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from mmtoolkit.core.device import (
    capture_rng,
    describe_device,
    peak_memory,
    resolve_device,
    restore_rng,
    seed_everything,
)
from mmtoolkit.core.errors import DivergenceError, RunError
from mmtoolkit.core.logging import logger
from mmtoolkit.core.progress import progress_bar
from mmtoolkit.core.run import RunDirectory
from mmtoolkit.recommend.config import RecommendSettings
from mmtoolkit.recommend.data import IntArray, RecommendData, load_data
from mmtoolkit.recommend.diffusion import Schedule, denoised_lists, training_loss
from mmtoolkit.recommend.evaluate import mean_metrics
from mmtoolkit.recommend.graph import (
    Graph,
    behaviour_graph,
    edge_purity,
    normalise_symmetric,
    semantic_graph,
    user_item_graph,
    weighted_list_graph,
)
from mmtoolkit.recommend.load import check_data, load_weights
from mmtoolkit.recommend.losses import bpr_loss, embedding_penalty, info_nce
from mmtoolkit.recommend.model import CDNet, Recommender
from mmtoolkit.recommend.report import write_run_report
from mmtoolkit.recommend.search import EXACT_UP_TO
from mmtoolkit.recommend.sparse import SparseRows


@dataclass(frozen=True)
class TrainResult:
    """What a finished run measured; metrics are fractions by name, such as `recall@20`.

    Attributes:
        epochs: epochs trained.
        best_epoch: epoch of the best validation score, which was restored.
        validation: metrics there on validation; likewise `test`.
        graphs: share of each item graph's edges within a known group, where groups are known.
    """

    epochs: int
    best_epoch: int
    validation: dict[str, float]
    test: dict[str, float]
    graphs: dict[str, float]


@dataclass
class Training:
    """Everything that training holds; `epoch`, `best_*` and the item graph change as it goes."""

    settings: RecommendSettings
    data: RecommendData
    device: torch.device
    semantic: sp.csr_array
    behaviour: sp.csr_array
    user_item: Graph
    semantic_normalised: Graph
    schedule: Schedule
    net: CDNet | None
    recommender: Recommender
    optimizers: dict[str, torch.optim.Optimizer]
    item_graph: sp.csr_array
    epoch: int = 0
    best_epoch: int = 0
    best_score: float = -1.0
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def finished(self) -> bool:
        """Tell whether the epochs or the patience are used up."""
        train = self.settings.train
        return self.epoch >= train.epochs or self.epoch - self.best_epoch >= train.patience

    @contextmanager
    def clock(self, stage: str) -> Iterator[None]:
        """Add the time spent inside to a stage of this epoch."""
        start = time.perf_counter()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.seconds[stage] = self.seconds.get(stage, 0) + time.perf_counter() - start


def train(
    settings: RecommendSettings,
    run: RunDirectory,
    data: RecommendData | None = None,
    *,
    resume: bool = False,
) -> TrainResult:
    """Train until validation stops improving, restore the best epoch and test it once.

    Args:
        settings: all settings.
        run: the run's folder; a new one is made once the data have proved usable.
        data: the data set; read from `settings.data.path` if not given.
        resume: continue from the run's last checkpoint, to the same bits.

    Raises:
        DataError: if the data set cannot be used; nothing has been written then.
        CheckpointError: if a run to resume has no checkpoint or was trained on other data.
        DivergenceError: if a loss stops being finite; the last checkpoint stays.
    """
    training = set_up(settings, load_data(settings.data.path) if data is None else data)
    if resume:
        restore(training, run)
    run.start()
    with run.logging():
        logger.info("%s", _describe(training))
        fit(training, run)
        return _finish(training, run)


def set_up(settings: RecommendSettings, data: RecommendData) -> Training:
    """Build graphs, networks and optimizers; the seed fixes all of them."""
    device = resolve_device(settings.device)
    seed_everything(settings.seed)
    semantic = semantic_graph(data, settings.data, settings.graph.neighbours, device)
    net = None
    if settings.model.item_graph == "denoised":
        net = CDNet(data.items, settings.diffusion, getattr(torch, settings.precision)).to(device)
    recommender = Recommender(data.users, data.items, settings.model).to(device)
    normalised = normalise_symmetric(semantic)
    return Training(
        settings=settings,
        data=data,
        device=device,
        semantic=semantic,
        behaviour=behaviour_graph(data.train, settings.graph),
        user_item=Graph.from_scipy(user_item_graph(data.train), device),
        semantic_normalised=Graph.from_scipy(normalised, device),
        schedule=Schedule.from_settings(settings.diffusion, device),
        net=net,
        recommender=recommender,
        optimizers=_optimizers(settings, net, recommender),
        item_graph=normalised,
    )


def _optimizers(
    settings: RecommendSettings, net: CDNet | None, recommender: Recommender
) -> dict[str, torch.optim.Optimizer]:
    rate = settings.train.learning_rate
    optimizers: dict[str, torch.optim.Optimizer] = {
        "recommender": torch.optim.Adam(recommender.parameters(), rate, fused=True)
    }
    if net is not None:
        rate = settings.diffusion.learning_rate
        optimizers["cdnet"] = torch.optim.Adam(net.parameters(), rate, fused=True)
    return optimizers


def fit(training: Training, run: RunDirectory) -> None:
    """Run epochs until they or the patience are used up; every one leaves a line in metrics.jsonl."""
    settings = training.settings.train
    with progress_bar("epochs, at most", settings.epochs, training.epoch) as advance:
        while not training.finished:
            record = train_epoch(training)
            score = record[settings.monitor]
            better = score > training.best_score
            if better:
                training.best_epoch, training.best_score = training.epoch, score
            run.log_metrics(record)
            if better or training.finished or training.epoch % settings.checkpoint_every == 0:
                save(training, run, best=better)
            note = (
                f"{settings.monitor} {score:.4f}, "
                f"best {training.best_score:.4f} at epoch {training.best_epoch}"
            )
            advance(note)
            logger.info("epoch %d: %s, %.1f s", training.epoch, note, record["seconds"])


def train_epoch(training: Training) -> dict[str, Any]:
    """Run one epoch and return its losses, validation metrics and seconds by stage."""
    training.epoch += 1
    training.seconds = {}
    record: dict[str, Any] = {"epoch": training.epoch}
    if training.net is not None:
        record |= _train_diffusion(training, training.net)
        record |= _denoise_graph(training, training.net)
    record |= _train_recommender(training)
    with training.clock("evaluation"):
        users, items = representations(training)
        record |= mean_metrics(users, items, training.data, "validation", training.settings.evaluate)
    stages = {f"seconds_{stage}": round(s, 3) for stage, s in training.seconds.items()}
    total = round(sum(training.seconds.values()), 3)
    return record | stages | {"seconds": total, "peak_memory": peak_memory(training.device)}


def _train_diffusion(training: Training, net: CDNet) -> dict[str, float]:
    """Teach CD-Net for some passes over the rows of the item graph."""
    settings, items = training.settings.diffusion, training.data.items
    net.train()
    losses = []
    with training.clock("diffusion"):
        size = max(settings.batch_size, -(-items // settings.max_batches))
        for _ in range(settings.passes):
            for rows in torch.randperm(items).split(size):
                chosen = np.sort(rows.numpy())
                clean = SparseRows(sp.csr_array(training.semantic[chosen]), training.device)
                condition = SparseRows(sp.csr_array(training.behaviour[chosen]), training.device)
                loss = training_loss(net, training.schedule, clean, condition, settings)
                losses.append(_step(training, "cdnet", loss))
    return {"loss_diffusion": float(np.mean(losses))}


def _denoise_graph(training: Training, net: CDNet) -> dict[str, float]:
    """Replace the item graph by the denoised one, and say how much of the semantic graph it keeps."""
    graph = training.settings.graph
    net.eval()
    with training.clock("denoising"):
        few = graph.search == "candidates" or (graph.search == "auto" and training.data.items > EXACT_UP_TO)
        lists, scores, recall = denoised_lists(
            net,
            training.schedule,
            training.semantic,
            training.behaviour,
            training.settings.diffusion.guidance,
            graph.denoised_neighbours,
            candidates=few,
        )
        denoised = weighted_list_graph(lists, scores, graph.denoised_weights)
        training.item_graph = normalise_symmetric(denoised)
    kept = (denoised != 0).multiply(training.semantic != 0).nnz / max(1, training.semantic.nnz)
    facts = {"kept_semantic_edges": kept}
    if few:
        facts["search_recall"] = recall
    if training.data.groups is not None:
        facts["purity_denoised"] = edge_purity(denoised, training.data.groups)
    return facts


def _train_recommender(training: Training) -> dict[str, float]:
    """Teach the embeddings for one pass over the training interactions (step 6 of the method)."""
    settings = training.settings.train
    losses = []
    with training.clock("recommender"):
        item_graph = Graph.from_scipy(training.item_graph, training.device)
        triples = torch.from_numpy(sample_triples(training.data.train))
        for batch in triples[torch.randperm(len(triples))].split(settings.batch_size):
            loss = _recommender_loss(training, item_graph, batch.to(training.device))
            losses.append(_step(training, "recommender", loss))
    return {"loss_recommender": float(np.mean(losses))}


def _recommender_loss(training: Training, item_graph: Graph, batch: Tensor) -> Tensor:
    settings, recommender = training.settings.train, training.recommender
    users, items = recommender.collaborative(training.user_item)
    view = items + item_graph.propagate(recommender.items)
    # embedding's gradient adds up in a fixed order; that of plain indexing does not
    user, positive, negative = (
        F.embedding(ids, rows) for rows, ids in zip((users, view, view), batch.T, strict=True)
    )
    loss = bpr_loss(user, positive, negative)
    loss = loss + settings.embedding_penalty * embedding_penalty(user, positive, negative)
    if training.net is not None and settings.contrast_weight:
        other = items + training.semantic_normalised.propagate(recommender.items)
        contrast = info_nce(view, other, batch[:, 1], settings.contrast_temperature)
        loss = loss + settings.contrast_weight * contrast
    return loss


def sample_triples(train: sp.csr_array) -> IntArray:
    """Pair every interaction with an item that its user does not have, drawn uniformly.

    Returns:
        `(interactions, 3)` of user, positive, negative, drawn with torch's global generator.
    """
    items = train.shape[1]
    users = np.repeat(np.arange(train.shape[0]), np.diff(train.indptr))
    positives = train.indices.astype(np.int64)
    known = np.sort(users * items + positives)
    negatives = np.zeros_like(positives)
    open_places = np.arange(len(users))
    while len(open_places):
        negatives[open_places] = torch.randint(items, (len(open_places),)).numpy()
        keys = users[open_places] * items + negatives[open_places]
        places = np.minimum(np.searchsorted(known, keys), len(known) - 1)
        open_places = open_places[known[places] == keys]
    return np.stack([users, positives, negatives], axis=1)


def _step(training: Training, name: str, loss: Tensor) -> float:
    value = loss.item()
    if not np.isfinite(value):
        where = {"cdnet": "diffusion.learning_rate", "recommender": "train.learning_rate"}[name]
        raise DivergenceError(f"epoch {training.epoch}: the loss of the {name} is {value}; lower {where}")
    optimizer = training.optimizers[name]
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return value


@torch.no_grad()
def representations(training: Training) -> tuple[Tensor, Tensor]:
    """Return what is ranked with: users `(users, width)` and items `(items, width)`."""
    item_graph = Graph.from_scipy(training.item_graph, training.device)
    users, items = training.recommender(training.user_item, item_graph)
    return users, items


def save(training: Training, run: RunDirectory, *, best: bool) -> None:
    """Write a checkpoint of the epoch that has just ended."""
    graph = training.item_graph.tocoo()
    model = {f"recommender.{k}": v for k, v in training.recommender.state_dict().items()}
    model["item_graph.index"] = torch.from_numpy(np.stack([graph.row, graph.col]).astype(np.int32))
    model["item_graph.weights"] = torch.from_numpy(graph.data.astype(np.float32))
    state = {
        "cdnet": {} if training.net is None else training.net.state_dict(),
        "optimizers": {name: opt.state_dict() for name, opt in training.optimizers.items()},
        "rng": capture_rng(),
        "best_epoch": training.best_epoch,
        "best_score": training.best_score,
    }
    meta = {"engine": "recommend", "data": training.data.fingerprint()}
    checkpoint = Checkpoint(model, state, meta)
    save_checkpoint(run.checkpoints, training.epoch, checkpoint, best=best)


def restore(training: Training, run: RunDirectory) -> None:
    """Put a run's last checkpoint back, as if it had never stopped.

    Raises:
        CheckpointError: if there is none, or it was trained on other data or other sizes.
    """
    path = find_checkpoint(run.checkpoints)
    checkpoint = load_checkpoint(path)
    check_data(checkpoint, training.data, path)
    training.epoch = checkpoint.meta["step"]
    training.item_graph = load_weights(training.recommender, checkpoint, path)
    if training.net is not None:
        training.net.load_state_dict(checkpoint.state["cdnet"])
    for name, optimizer in training.optimizers.items():
        optimizer.load_state_dict(checkpoint.state["optimizers"][name])
    training.best_epoch = checkpoint.state["best_epoch"]
    training.best_score = checkpoint.state["best_score"]
    restore_rng(checkpoint.state["rng"])
    run.rewind_metrics("epoch", training.epoch)
    logger.info("resumed after epoch %d", training.epoch)


def _finish(training: Training, run: RunDirectory) -> TrainResult:
    """Restore the best epoch, rank for validation and test once, and write what came out."""
    if not training.best_epoch:
        raise RunError("no epoch was trained; raise train.epochs")
    path = find_checkpoint(run.checkpoints, BEST)
    training.item_graph = load_weights(training.recommender, load_checkpoint(path, state=False), path)
    users, items = representations(training)
    settings, data = training.settings, training.data
    validation, test = (
        mean_metrics(users, items, data, split, settings.evaluate) for split in ("validation", "test")
    )
    result = TrainResult(training.epoch, training.best_epoch, validation, test, _graph_facts(training))
    run.write_results(asdict(result) | {"device": describe_device(training.device)})
    write_run_report(run, data, result)
    return result


def _graph_facts(training: Training) -> dict[str, float]:
    """Judge the item graphs against the planted groups, where the data set has them."""
    groups = training.data.groups
    if groups is None:
        return {}
    facts = {
        "purity_semantic": edge_purity(training.semantic, groups),
        "purity_behaviour": edge_purity(training.behaviour, groups),
    }
    if training.net is not None:
        facts["purity_denoised"] = edge_purity(training.item_graph, groups)
    return facts


def _describe(training: Training) -> str:
    data = training.data
    return (
        f"{data.name}: {data.users:,} users, {data.items:,} items, {data.train.nnz:,} training "
        f"interactions, modalities {', '.join(data.modalities)}; on {describe_device(training.device)}"
    )


def describe_work(settings: RecommendSettings) -> dict[str, int | str]:
    """Check settings and data without training, and tell the sizes of the work.

    Raises:
        DataError: if the data set cannot be used.
    """
    training = set_up(settings, load_data(settings.data.path))
    data, diffusion = training.data, settings.diffusion
    parameters = {
        name: sum(p.numel() for group in opt.param_groups for p in group["params"])
        for name, opt in training.optimizers.items()
    }
    facts: dict[str, int | str] = {
        "data": data.name,
        "users": data.users,
        "items": data.items,
        "interactions": data.train.nnz,
        "modalities": ", ".join(data.modalities),
        "semantic_edges": training.semantic.nnz,
        "behaviour_edges": training.behaviour.nnz - data.items,
        "parameters_recommender": parameters["recommender"],
        "steps_recommender": math.ceil(data.train.nnz / settings.train.batch_size),
        "device": describe_device(training.device),
    }
    if training.net is not None:
        batches = math.ceil(data.items / diffusion.batch_size)
        facts["parameters_cdnet"] = parameters["cdnet"]
        facts["steps_cdnet"] = diffusion.passes * batches
    facts["checkpoint_bytes"] = 12 * sum(parameters.values())
    return facts
