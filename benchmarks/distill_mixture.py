"""Compare LCM, PCM, TCD and TDD on a Gaussian mixture whose noise prediction is known exactly.

    python benchmarks/distill_mixture.py [--seeds 3] [--steps 1000] [--undamped] [--rule tdd ...] [--record]

A student is the exact teacher plus a small network, trained by the package's own step; all have the same
budget. Each cell shows the squared sliced Wasserstein distance to the teacher's 250-step samples from
the same noise, mean and spread over the seeds; * marks the best. Minutes on one thread.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from bench import Figures, describe_machine, make_parser
from mixture import Mixture
from torch import Tensor, nn

from mmtoolkit.core.training import Average
from mmtoolkit.distill.config import TargetSettings
from mmtoolkit.distill.models.denoiser import Condition, swapped
from mmtoolkit.distill.models.losses import Draw, distillation_loss
from mmtoolkit.distill.models.pixel import pixel_levels
from mmtoolkit.distill.sampling.generate import student_samples, teacher_samples
from mmtoolkit.distill.training.targets import Targets

CLASSES, COMPONENTS, WIDTH, SPREAD, STRENGTH = 4, 3, 16, 0.15, 0.5
BATCH, RATE, SAMPLES = 128, 2e-3, 2048
RULES = {
    "lcm": {"rule": "lcm", "drop": 0.0},
    "pcm-4": {"rule": "pcm", "drop": 0.0},
    "tcd": {"rule": "tcd", "drop": 0.0},
    "tdd published": {"window": "published", "eta": 0.3},
    "tdd paper": {"window": "paper", "eta": 0.3},
    "tdd offset": {"eta": 0.3},
    "tdd half offset": {"eta": 0.3, "eta_zero": 0.5},
    "tdd coupled": {"drop": 0.0},
    "pcm-8 decoupled": {"rule": "pcm", "phases": 8},
    "tdd": {},
}


class Student(Mixture):
    """The exact prediction plus what a small network has learned."""

    def __init__(self, teacher: Mixture) -> None:
        super().__init__(teacher.means, teacher.spread, teacher.levels)
        self.label = nn.Embedding(CLASSES + 1, 32)
        self.net = nn.Sequential(
            nn.Linear(WIDTH + 32 + 32, 128), nn.SiLU(), nn.Linear(128, 128), nn.SiLU(), nn.Linear(128, WIDTH)
        )
        nn.init.zeros_(self.net[-1].weight)
        nn.init.zeros_(self.net[-1].bias)
        self.student = True

    def predict(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        exact = super().predict(x, t, condition)
        if not self.student:
            return exact
        angle = t[:, None] / 1000 * torch.exp(torch.linspace(0, 5, 16))
        time = torch.cat([angle.sin(), angle.cos()], 1)
        label = self.label(condition["label"] % (CLASSES + 1))
        return exact + self.net(torch.cat([x.float(), time, label], 1)).double()

    @contextmanager
    def teacher(self) -> Iterator[None]:
        self.student = False
        yield
        self.student = True

    def trainable(self) -> dict[str, nn.Parameter]:
        return {f"{n}.{k}": v for n in ("label", "net") for k, v in getattr(self, n).named_parameters()}


def train(teacher: Mixture, settings: TargetSettings, steps: int, seed: int) -> Student:
    torch.manual_seed(seed)
    student, generator = Student(teacher), torch.Generator().manual_seed(seed)
    parameters = student.trainable()
    average = Average(parameters, 0.99)
    optimizer = torch.optim.Adam(parameters.values(), RATE)
    targets = Targets.from_settings(settings, torch.device("cpu"))
    lcm = settings.rule == "lcm"
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, (steps - step) / (0.4 * steps))
        label = torch.randint(CLASSES, (BATCH,), generator=generator)
        clean, n = teacher.sample(label, generator), targets.draw_starts(BATCH, generator)
        draw = Draw(
            start=targets.grid[n],
            before=targets.before[n],
            target=targets.draw(n, generator),
            noise=torch.randn((BATCH, WIDTH), generator=generator, dtype=torch.float64),
            dropped=torch.rand(BATCH, generator=generator) < settings.drop,
        )
        loss = distillation_loss(
            student,
            clean,
            {"label": label},
            draw,
            guidance=settings.guidance,
            huber=settings.huber,
            boundary=lcm,
            target_weights=swapped(parameters, average.values) if lcm else nullcontext(),
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        average.update(parameters, step + 1)
    for name, parameter in parameters.items():
        parameter.data.copy_(average.values[name])
    return student


def sliced_distance(a: Tensor, b: Tensor) -> float:
    directions = torch.randn(WIDTH, 64, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    directions /= directions.norm(dim=0)
    return float(((a @ directions).sort(0).values - (b @ directions).sort(0).values).square().mean())


def main() -> None:
    torch.set_num_threads(1)
    parser = make_parser(__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--undamped", action="store_true", help="guidance at full strength over long jumps")
    parser.add_argument("--rule", action="append", choices=list(RULES), help="may be repeated (default: all)")
    options = parser.parse_args()
    seeds, steps = options.seeds, options.steps
    means = torch.randn(CLASSES, COMPONENTS, WIDTH, generator=torch.Generator().manual_seed(0))
    teacher = Mixture(means, SPREAD, pixel_levels())
    generator = torch.Generator().manual_seed(1)
    condition = {"label": torch.arange(SAMPLES) % CLASSES}
    noise = torch.randn((SAMPLES, WIDTH), generator=generator, dtype=torch.float64)
    cells = [(g, eta, k) for g in (1, 2) for eta in (0.0, 0.3) for k in (1, 2, 4, 6, 8)]
    scale = 1 + STRENGTH
    wanted = {g: teacher_samples(teacher, condition, noise, steps=250, guidance=g * scale) for g in (1, 2)}
    found: dict[str, Tensor] = {}
    start = time.process_time()
    for name in options.rule or RULES:
        changes, scores = RULES[name], torch.zeros(len(cells), seeds)
        settings = TargetSettings(guidance=STRENGTH, **changes)  # type: ignore[arg-type]
        for seed in range(seeds):
            student = train(teacher, settings, steps, seed)
            for index, (g, eta, k) in enumerate(cells):
                made = student_samples(
                    student,
                    condition,
                    noise,
                    steps=k,
                    training_steps=250,
                    guidance=g,
                    eta=eta,
                    damped=not options.undamped,
                    generator=torch.Generator().manual_seed(seed),
                )
                scores[index, seed] = sliced_distance(made, wanted[g])
        found[name] = scores
    print(describe_machine("1 thread", f"{time.process_time() - start:.0f} s of processor time"))
    about = f"{CLASSES} classes of {COMPONENTS} Gaussians in {WIDTH} dimensions"
    print(f"{seeds} seeds, {steps} steps of {BATCH}, {about}\n")
    print(f"| guidance | eta | steps | {' | '.join(found)} |\n|{'---|' * (3 + len(found))}")
    for index, (g, eta, k) in enumerate(cells):
        best = min(found, key=lambda name: found[name][index].mean())
        shown = [
            f"{v[index].mean():.4f} ({v[index].std():.4f}){' *' if name == best else ''}"
            for name, v in found.items()
        ]
        print(f"| {g}x | {eta:g} | {k} | {' | '.join(shown)} |")
    record_cells(found, cells, Figures(options.record))


def record_cells(found: dict[str, Tensor], cells: list[tuple[int, float, int]], figures: Figures) -> None:
    """Record each rule at 8 steps without noise, and in how many cells TDD is below LCM, PCM-4 and TCD."""
    for name, scores in found.items():
        what = f"exact mixture, {name}, 8 steps, 1x, eta 0: squared sliced Wasserstein distance"
        mean = float(scores[cells.index((1, 0.0, 8))].mean())
        figures.add(f"distill.mixture.{name.replace(' ', '-')}", mean, what=what, unit="absolute")
    others = [found[name].mean(1) for name in ("lcm", "pcm-4", "tcd") if name in found]
    if "tdd" in found and len(others) == 3:
        in_front = (found["tdd"].mean(1) < torch.stack(others).amin(0)).sum()
        figures.add("distill.mixture.cells", int(in_front))


if __name__ == "__main__":
    main()
