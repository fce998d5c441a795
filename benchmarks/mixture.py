"""A class-conditional Gaussian mixture whose noise prediction is known exactly, for tests and studies."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from mmtoolkit.distill.models.denoiser import Condition, Levels, Prediction


class Mixture:
    """A :class:`~mmtoolkit.distill.models.denoiser.Denoiser` in closed form; everything in float64.

    Class c has equally likely components N(mean, spread^2 I); without a condition all classes are equally
    likely. At noise level (alpha, sigma) a component is N(alpha mean, (alpha^2 spread^2 + sigma^2) I).
    """

    prediction: Prediction = "epsilon"

    def __init__(self, means: Tensor, spread: float, levels: Levels) -> None:
        """Make it.

        Args:
            means: `(classes, components, width)`.
            spread: standard deviation of every component.
            levels: signal and noise of its timesteps.
        """
        self.means = means.double()
        self.spread = spread
        self.levels = Levels(levels.alpha.double(), levels.sigma.double(), levels.times)
        self.shape: tuple[int, ...] = (means.shape[2],)
        self.network: nn.Module = nn.Identity()

    def sample(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Draw clean samples `(rows, width)` of classes `(rows,)`."""
        component = torch.randint(self.means.shape[1], (len(labels),), generator=generator)
        noise = torch.randn((len(labels), *self.shape), generator=generator, dtype=torch.float64)
        return self.means[labels, component] + self.spread * noise

    def _components(self, label: Tensor) -> tuple[Tensor, Tensor]:
        """Return all means `(classes * components, width)` and which of them each row may come from."""
        classes, components, width = self.means.shape
        owner = torch.arange(classes).repeat_interleave(components)
        allowed = (owner[None, :] == label[:, None]) | (label[:, None] < 0)
        return self.means.reshape(-1, width), allowed

    def log_density(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Return the logarithm of the noisy density up to a constant of the timestep, `(rows,)`."""
        means, allowed = self._components(condition["label"])
        alpha, sigma = self.levels.at(t, x)
        variance = alpha**2 * self.spread**2 + sigma**2
        distance = (x[:, None] - alpha[:, None] * means[None]).square().sum(2)
        scores = torch.where(allowed, -distance / (2 * variance), -torch.inf)
        return torch.logsumexp(scores, 1)

    def predict(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Return eps = -sigma grad log p_t(x), from the posterior mean of the clean sample."""
        means, allowed = self._components(condition["label"])
        alpha, sigma = self.levels.at(t, x)
        variance = alpha**2 * self.spread**2 + sigma**2
        distance = (x[:, None] - alpha[:, None] * means[None]).square().sum(2)
        weight = torch.where(allowed, -distance / (2 * variance), -torch.inf).softmax(1)
        return sigma * (x - alpha * (weight @ means)) / variance

    def empty(self, condition: Condition) -> Condition:
        """Name no class."""
        return {"label": torch.full_like(condition["label"], -1)}

    @contextmanager
    def teacher(self) -> Iterator[None]:
        """It is its own teacher."""
        yield

    def trainable(self) -> dict[str, nn.Parameter]:
        """Nothing trains."""
        return {}

    def decode(self, x: Tensor) -> Tensor:
        """Samples stay as they are."""
        return x
