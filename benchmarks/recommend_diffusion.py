"""Compare an epoch, and its diffusion alone (passes and one denoising), with the computation as published.

    python benchmarks/recommend_diffusion.py DATA_SET_FOLDER [float32] [bfloat16] [--passes 1]

The published computation keeps both graphs as dense items x items matrices, draws noise in items
dimensions, predicts dense rows, and denoises with two passes (with and without condition) a step. Its
recommender propagates with torch's sparse products, contrasts through autograd, and propagates anew for
every batch of users that it ranks. It is written anew here, as plainly and as fast as torch's own layers
allow, with our sampler of triples; it ranks validation alone, where the published code ranks the test split
in every epoch too. Each side runs in a process of its own, so that its peak memory is its own; the same
passes, batches and sizes on both sides. With --passes, fewer passes are run and their time is scaled to the
preset's, as all passes cost the same.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmtoolkit.core.config import config_layer, resolve, set_layers
from mmtoolkit.core.device import describe_device, peak_memory, seed_everything
from mmtoolkit.core.run import environment
from mmtoolkit.recommend.config import RecommendSettings
from mmtoolkit.recommend.data.dataset import IntArray, RecommendData
from mmtoolkit.recommend.data.read import load_data
from mmtoolkit.recommend.evaluation.metrics import rank_unseen
from mmtoolkit.recommend.graphs.graph import (
    behaviour_graph,
    normalise_symmetric,
    semantic_graph,
    user_item_graph,
    weighted_list_graph,
)
from mmtoolkit.recommend.models.igdmrec import Igdmrec
from mmtoolkit.recommend.models.learner import Loop, pick
from mmtoolkit.recommend.models.losses import bpr_loss, embedding_penalty
from mmtoolkit.recommend.models.networks import sinusoidal_embedding
from mmtoolkit.recommend.models.schedule import Schedule
from mmtoolkit.recommend.training.loop import sample_triples, train_epoch
from mmtoolkit.recommend.training.state import set_up
from mmtoolkit.recommend.training.workers import Workers

CPU = torch.device("cpu")

EVALUATED_USERS = 4096
"""Users that the published side ranks at once."""


class PublishedNet(nn.Module):
    """CD-Net on dense rows."""

    def __init__(self, items: int, hidden: int, width: int) -> None:
        """Make torch's own linear layers."""
        super().__init__()
        self.width = width
        self.encoder, self.decoder = nn.Linear(items, hidden), nn.Linear(hidden, items)
        self.time = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
        self.mix = nn.Linear(2 * hidden + width, hidden)
        self.dropout = nn.Dropout(0.5)

    def forward(self, rows: Tensor, condition: Tensor | None, steps: Tensor) -> Tensor:
        """Predict clean rows, `(batch, items)`."""
        row = self.dropout(F.normalize(self.encoder(rows), dim=1))
        if condition is None:
            other = torch.zeros_like(row)
        else:
            other = self.dropout(F.normalize(self.encoder(condition), dim=1))
        embedded = self.time(sinusoidal_embedding(steps, self.width))
        predicted: Tensor = self.decoder(self.mix(torch.cat([row, other, embedded], dim=1)))
        return predicted


def published_epoch(settings: RecommendSettings, folder: str) -> dict[str, float]:
    data, chosen = load_data(Path(folder)), settings.diffusion
    semantic = semantic_graph(data, settings.data, settings.graph.neighbours, CPU)
    rows = torch.from_numpy(semantic.toarray())
    conditions = torch.from_numpy(behaviour_graph(data.train, settings.graph).toarray())
    net = PublishedNet(data.items, chosen.hidden, chosen.time_embedding)
    optimizer = torch.optim.Adam(net.parameters(), chosen.learning_rate)
    schedule = Schedule.from_settings(chosen, CPU)
    start = time.perf_counter()
    for _ in range(chosen.passes):
        for batch in torch.randperm(data.items).split(chosen.batch_size):
            clean = rows[batch]
            steps = torch.randint(chosen.steps, (len(batch),))
            noise = torch.randn_like(clean)
            noisy = schedule.signal[steps, None] * clean + schedule.noise[steps, None] * noise
            condition = conditions[batch] if torch.rand(()) >= chosen.condition_dropout else None
            error = (clean - net(noisy, condition, steps)).square().mean(dim=1)
            loss = (schedule.loss_weight[steps] * error).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    trained = time.perf_counter()
    net.eval()
    with torch.no_grad():
        for step in range(chosen.steps - 1, -1, -1):
            steps = torch.full((data.items,), step)
            guided = (1 + chosen.guidance) * net(rows, conditions, steps)
            guided -= chosen.guidance * net(rows, None, steps)
            rows = schedule.posterior_clean[step] * guided + schedule.posterior_noisy[step] * rows
        values, columns = rows.topk(settings.graph.denoised_neighbours, dim=1)
    denoised = time.perf_counter()
    lists = weighted_list_graph(columns, values, settings.graph.denoised_weights)
    seconds = {"diffusion": trained - start, "denoising": denoised - trained}
    return seconds | published_recommender(settings, data, lists, semantic)


def published_recommender(
    settings: RecommendSettings, data: RecommendData, denoised: sp.csr_array, semantic: sp.csr_array
) -> dict[str, float]:
    """Teach the recommender for an epoch and rank validation."""
    chosen, width = settings.train, settings.model.embedding
    graphs = user_item_graph(data.train), normalise_symmetric(denoised), normalise_symmetric(semantic)
    user_item, *views = (
        torch.sparse_coo_tensor(np.stack([graph.row, graph.col]), graph.data, graph.shape).coalesce()
        for graph in (graph.tocoo() for graph in graphs)
    )
    users, items = (nn.Parameter(nn.init.xavier_uniform_(torch.empty(n, width))) for n in data.train.shape)
    optimizer = torch.optim.Adam([users, items], chosen.learning_rate)

    def represent() -> tuple[Tensor, Tensor, Tensor]:
        x = torch.cat([users, items])
        for _ in range(settings.model.layers):
            x = torch.sparse.mm(user_item, x)
        user, item = x.split([len(users), len(items)])
        view, other = (item + torch.sparse.mm(graph, items) for graph in views)
        return user, view, other

    start = time.perf_counter()
    triples = torch.from_numpy(sample_triples(data.train))
    for batch in triples[torch.randperm(len(triples))].split(chosen.batch_size):
        users_now, view, other = represent()
        user, positive, negative = pick(batch, users_now, view)
        loss = bpr_loss(user, positive, negative)
        loss = loss + chosen.embedding_penalty * embedding_penalty(user, positive, negative)
        share = F.normalize(positive, dim=1) @ F.normalize(other, dim=1).T / chosen.contrast_temperature
        loss = loss + chosen.contrast_weight * F.cross_entropy(share, batch[:, 1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    trained = time.perf_counter()

    @torch.no_grad()
    def scores(block: IntArray) -> Tensor:
        users_now, view, _ = represent()
        return users_now[torch.from_numpy(block)] @ view.T

    top = settings.evaluate.top_k[-1]
    for _ in rank_unseen(scores, data.train, np.arange(data.users), top, EVALUATED_USERS):
        pass
    return {"recommender": trained - start, "evaluation": time.perf_counter() - trained}


def linear_epoch(settings: RecommendSettings, folder: str) -> dict[str, float]:
    model = Igdmrec(settings, load_data(Path(folder)), CPU)
    assert model.net is not None
    loop = Loop(CPU, Workers.join(CPU)[0])
    model.train_diffusion(model.net, loop)
    model.denoise_graph(model.net, loop)
    return loop.seconds


def whole_epoch(settings: RecommendSettings, folder: str) -> dict[str, float]:
    training = set_up(settings, load_data(Path(folder)))
    train_epoch(training)
    return training.loop.seconds


SIDES = {"published": published_epoch, "linear": linear_epoch, "whole": whole_epoch}


def run_side(side: str, folder: str, precision: str, passes: int | None) -> None:
    base = [config_layer("recommend", "igdmrec"), *set_layers([f"precision={precision}", "device=cpu"])]
    wanted = resolve(RecommendSettings, base).settings.diffusion.passes
    run = wanted if passes is None else passes
    settings = resolve(RecommendSettings, [*base, *set_layers([f"diffusion.passes={run}"])]).settings
    seed_everything(0)
    before = peak_memory(CPU)
    seconds = SIDES[side](settings, folder)
    seconds["diffusion"] *= wanted / run
    memory = {"before": before, "peak": peak_memory(CPU)}
    print(json.dumps({"seconds": seconds} | memory))


def measure(side: str, folder: str, precision: str, passes: int | None) -> dict[str, Any]:
    command = [sys.executable, __file__, folder, precision, "--side", side]
    command += [] if passes is None else ["--passes", str(passes)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("precision", nargs="*", default=["float32", "bfloat16"])
    parser.add_argument("--side", choices=SIDES, help="run one side only, and print it as JSON")
    parser.add_argument("--passes", type=int, help="run so many passes and scale their time")
    options = parser.parse_args()
    if options.side:
        run_side(options.side, options.folder, options.precision[0], options.passes)
        return
    print(f"{environment()['cpu']}, {describe_device(CPU)}, {Path(options.folder).name}")
    base = measure("published", options.folder, "float32", options.passes)
    sides = {"published, float32": base}
    for precision in options.precision:
        sides[f"linear form, {precision}"] = measure("linear", options.folder, precision, options.passes)
    for precision in options.precision:
        sides[f"whole epoch, {precision}"] = measure("whole", options.folder, precision, options.passes)
    print(f"{'':24}diffusion  denoising  the rest  together  times   peak memory  (before)")
    for name, found in sides.items():
        seconds, total = found["seconds"], sum(found["seconds"].values())
        diffusion, denoising = seconds["diffusion"], seconds["denoising"]
        rest = total - diffusion - denoising
        same = sum(base["seconds"][stage] for stage in seconds)
        print(
            f"{name:<24}{diffusion:7.1f} s{denoising:9.1f} s{rest:8.1f} s{total:8.1f} s"
            f"{same / total:7.2f}{found['peak'] / 2**30:10.2f} GiB{found['before'] / 2**30:8.2f} GiB"
        )
        assert np.isfinite(total)


if __name__ == "__main__":
    main()
