"""The training of a pixel-space teacher: state, loop and step."""

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mmtoolkit.core.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from mmtoolkit.core.device import make_accelerator, peak_memory, resolve_device, seed_everything
from mmtoolkit.core.errors import CheckpointError
from mmtoolkit.core.logging import logger
from mmtoolkit.core.progress import progress_bar
from mmtoolkit.core.run import RunDirectory
from mmtoolkit.core.training import Average, check_finite, linear_rate, set_rate, stop_signals
from mmtoolkit.distill.config import DistillSettings
from mmtoolkit.distill.data.examples import PixelExamples, load_images
from mmtoolkit.distill.data.read import open_pictures
from mmtoolkit.distill.models.denoiser import TIMESTEPS, Condition, autocast, move, replace_rows, swapped
from mmtoolkit.distill.models.pixel import PixelDenoiser, PixelNetwork, PixelSpec, with_size
from mmtoolkit.distill.sampling.generate import save_grid, teacher_samples
from mmtoolkit.distill.training.state import check_data, texts_of
from mmtoolkit.distill.training.steps import (
    batch_rows,
    learning_step,
    parts_of,
    step_generator,
    unwrapped,
)

if TYPE_CHECKING:
    from accelerate import Accelerator

DEFAULT_SIZE = 32
GRID_ROWS = 16
LARGEST_WEIGHT = 5.0


@dataclass
class Teaching:
    """Everything that teaching holds; `step` counts the finished steps."""

    settings: DistillSettings
    examples: PixelExamples
    texts: list[str]
    denoiser: PixelDenoiser
    accelerator: "Accelerator"
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    average: Average
    step: int = 0
    losses: list[float] = field(default_factory=list)


def set_up(settings: DistillSettings) -> Teaching:
    """Read the data, build the network and its optimizer; the seed fixes all of them."""
    accelerator = make_accelerator(resolve_device(settings.device))
    seed_everything(settings.seed)
    pictures = open_pictures(settings.data)
    size = with_size(settings.network, settings.data.size or pictures.size or DEFAULT_SIZE)
    spec = PixelSpec.of(pictures, settings.network, size)
    images, tokens = load_images(pictures, size), spec.tokens(pictures.texts)
    examples = PixelExamples(images, tokens, settings.data.flip, pictures.texts)
    denoiser = PixelDenoiser(PixelNetwork(spec), spec, accelerator.device)
    parameters = denoiser.trainable()
    optimizer = torch.optim.AdamW(
        parameters.values(), settings.teach.learning_rate, betas=(0.9, 0.99), weight_decay=0.0, fused=True
    )
    scaler = torch.amp.GradScaler(accelerator.device.type, enabled=settings.precision == "float16")
    average = Average(parameters, settings.teach.ema)
    denoiser.network = accelerator.prepare_model(denoiser.network)
    texts = [pictures.texts[int(i)] for i in torch.linspace(0, len(pictures) - 1, GRID_ROWS)]
    return Teaching(settings, examples, texts, denoiser, accelerator, optimizer, scaler, average)


def fit(teaching: Teaching, run: RunDirectory) -> None:
    """Run the remaining steps; every tenth writes a line of metrics.jsonl."""
    settings, main = teaching.settings.teach, teaching.accelerator.is_main_process
    start = time.perf_counter()
    progress = progress_bar("teaching", settings.steps, teaching.step)
    with stop_signals() as stop, progress as advance:
        while teaching.step < settings.steps:
            loss, norm = train_step(teaching)
            teaching.losses.append(loss)
            last = teaching.step == settings.steps
            if main and (teaching.step % 10 == 0 or last):
                recent = teaching.losses[-10:]
                record = {"step": teaching.step, "loss": sum(recent) / len(recent), "gradient_norm": norm}
                seconds = round(time.perf_counter() - start, 1)
                run.log_metrics(
                    record | {"seconds": seconds, "peak_memory": peak_memory(teaching.denoiser.device)}
                )
            if main and (last or stop or teaching.step % settings.checkpoint_every == 0):
                save(teaching, run)
                logger.info("step %d: loss %.4f", teaching.step, loss)
            if main and settings.sample_every and (last or teaching.step % settings.sample_every == 0):
                draw_samples(teaching, run)
            advance(f"loss {loss:.4f}")
            stop.check(f"step {teaching.step}", run.path)


def train_step(teaching: Teaching) -> tuple[float, float]:
    """Learn from one batch; returns the loss over all processes and the gradient's norm.

    The loss is the mean squared error of the network's own kind of output (Ho et al., arXiv 2006.11239,
    eq. 14; Salimans and Ho, arXiv 2202.00512, for v), at a uniform timestep; for `sample` it is weighted
    with the signal-to-noise ratio cut to [1, 5], so that details count.
    """
    settings, denoiser = teaching.settings.teach, teaching.denoiser
    rows = batch_rows(len(teaching.examples), settings.batch_size, teaching.settings.seed, teaching.step)
    (part,) = parts_of(settings.batch_size, 1, teaching.accelerator)
    clean, condition = teaching.examples.batch(rows[part])
    clean, condition = clean.to(denoiser.device), move(condition, denoiser.device)
    factor = linear_rate(teaching.step, settings.steps, warmup=settings.warmup, cooldown=settings.cooldown)
    set_rate(teaching.optimizer, settings.learning_rate * factor)
    teaching.optimizer.zero_grad(set_to_none=True)
    loss = _loss(teaching, clean, condition, part)
    value = float(teaching.accelerator.reduce(loss.detach(), "mean"))
    check_finite(value, f"step {teaching.step + 1}", "teach.learning_rate")
    teaching.scaler.scale(loss).backward()
    parameters = denoiser.trainable()
    teaching.step += 1
    norm = learning_step(teaching.optimizer, teaching.scaler, parameters.values(), settings.clip)
    teaching.average.update(parameters, teaching.step)
    return value, norm


def _loss(teaching: Teaching, clean: Tensor, condition: Condition, part: slice) -> Tensor:
    settings, denoiser = teaching.settings.teach, teaching.denoiser
    device, size = denoiser.device, settings.batch_size
    generator = step_generator(teaching.settings.seed, teaching.step, device)
    t = torch.randint(TIMESTEPS, (size,), generator=generator, device=device)[part]
    dropped = (torch.rand(size, generator=generator, device=device) < settings.drop)[part]
    noise = torch.randn((size, *denoiser.shape), generator=generator, device=device)[part]
    alpha, sigma = denoiser.levels.at(t, clean)
    condition = replace_rows(condition, denoiser.empty(condition), dropped)
    with autocast(device, teaching.settings.precision):
        output = denoiser.predict(alpha * clean + sigma * noise, t, condition)
    wanted = {"epsilon": noise, "sample": clean, "v_prediction": alpha * noise - sigma * clean}
    error = (output.float() - wanted[denoiser.prediction]).square()
    if denoiser.prediction == "sample":
        error = error * (alpha / sigma).square().clamp(1, LARGEST_WEIGHT)
    return error.mean()


@torch.no_grad()
def draw_samples(teaching: Teaching, run: RunDirectory) -> None:
    """Draw the averaged model's pictures of some training captions, with guidance 2."""
    denoiser = teaching.denoiser
    generator = step_generator(teaching.settings.seed, 0, denoiser.device)
    noise = torch.randn((GRID_ROWS, *denoiser.shape), generator=generator, device=denoiser.device)
    condition = {"tokens": denoiser.spec.tokens(teaching.texts).to(denoiser.device)}
    averaged = swapped(denoiser.trainable(), teaching.average.values)
    with unwrapped(denoiser, teaching.accelerator), averaged:
        pictures = teacher_samples(denoiser, condition, noise, guidance=2.0)
    save_grid(denoiser.decode(pictures), 8, run.path / "samples" / f"{teaching.step:06d}.png")


def save(teaching: Teaching, run: RunDirectory) -> None:
    """Write a checkpoint: the averaged weights as the model, all else as state."""
    state: dict[str, Any] = {
        "weights": dict(teaching.denoiser.model.state_dict()),
        "optimizer": teaching.optimizer.state_dict(),
        "scaler": teaching.scaler.state_dict(),
        "losses": teaching.losses[-100:],
    }
    meta = {
        "engine": "distill teach",
        "spec": teaching.denoiser.spec.to_json(),
        "texts": texts_of(teaching.examples),
    }
    save_checkpoint(run.checkpoints, teaching.step, Checkpoint(teaching.average.values, state, meta))


def restore(teaching: Teaching, run: RunDirectory) -> None:
    """Put the last checkpoint back, as if teaching had never stopped.

    Raises:
        CheckpointError: if there is none, or it is from other data.
    """
    path = run.checkpoint()
    stored = load_checkpoint(path)
    check_data(stored, teaching.examples, path)
    if stored.meta.get("spec") != teaching.denoiser.spec.to_json():
        raise CheckpointError(
            f"{path}: taught on other words, sizes or widths; give its own data with `data`"
        )
    teaching.denoiser.model.load_state_dict(stored.state["weights"])
    teaching.optimizer.load_state_dict(stored.state["optimizer"])
    teaching.scaler.load_state_dict(stored.state["scaler"])
    teaching.average.load(stored.model)
    teaching.losses = list(stored.state["losses"])
    teaching.step = stored.meta["step"]
    run.rewind_metrics("step", teaching.step)
    logger.info("resumed after step %d", teaching.step)
