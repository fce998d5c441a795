"""Samplers for few-step students, as Diffusers schedulers: drop-in for SD, SDXL, SD3 and FLUX pipelines.

    pipe.scheduler = TDDScheduler.from_config(pipe.scheduler.config)
    pipe(prompt, num_inference_steps=4, guidance_scale=1.0, eta=0.3)

Each step estimates the clean sample, jumps to floor((1 - eta) t_next) and adds noise back up to t_next
(gamma sampling; Kim et al., arXiv 2310.02279, algorithm 3); the last step returns the clean sample itself.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers, SchedulerMixin
from diffusers.utils.outputs import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from mmtoolkit.distill.models.denoiser import Levels, Prediction, to_x0_eps
from mmtoolkit.distill.sampling.grids import ScheduleKind, sampling_grid

Generators = torch.Generator | list[torch.Generator] | None


@dataclass
class TDDSchedulerOutput(BaseOutput):
    """Result of a step.

    Attributes:
        prev_sample: sample at the next timestep, `(rows, ...)`.
        pred_original_sample: estimate of the clean sample, the same shape.
    """

    prev_sample: Tensor
    pred_original_sample: Tensor


class _FewStepScheduler(SchedulerMixin, ConfigMixin):  # type: ignore[misc]
    """Steps over a grid of timesteps; subclasses define the noise levels and the prediction type."""

    order = 1
    init_noise_sigma = 1.0
    config: Any
    levels: Levels
    prediction: Prediction

    def _start(self) -> None:
        # Diffusers reads `timesteps` of a new scheduler, so it needs a grid before set_timesteps is called
        self.num_inference_steps: int | None = None
        self._use_grid(sampling_grid(min(8, self.config.training_steps), self.config.training_steps), None)

    def _use_grid(self, grid: list[int], device: str | torch.device | None) -> None:
        self.grid = grid
        self.timesteps = self.levels.times[grid].to(device)
        self._step_index: int | None = None
        self._begin_index: int | None = None

    @property
    def step_index(self) -> int | None:
        """Position in `timesteps` of the next step; None before the first."""
        return self._step_index

    @property
    def begin_index(self) -> int | None:
        """Position in `timesteps` of the first step, if an image-to-image pipeline has set it."""
        return self._begin_index

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Start at a position of `timesteps`, as image-to-image pipelines do."""
        self._begin_index = begin_index

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        """Return the sample unchanged: the network takes inputs of unit variance."""
        return sample

    def __len__(self) -> int:
        """Return the number of timesteps of the base model."""
        return int(self.config.num_train_timesteps)

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        timesteps: list[int] | None = None,
    ) -> None:
        """Set the timesteps for sampling.

        Args:
            num_inference_steps: number of steps, spaced by the config's `schedule`.
            device: device for `timesteps`.
            timesteps: custom timesteps in 0..999, descending, instead of a number of steps.

        Raises:
            ValueError: if neither or both are given, or they are out of range or order.
        """
        if (timesteps is None) == (num_inference_steps is None):
            raise ValueError("give either num_inference_steps or timesteps")
        if timesteps is not None:
            grid = [int(t) for t in timesteps]
            inside = all(0 <= t < self.config.num_train_timesteps for t in grid)
            if not grid or not inside or any(a <= b for a, b in pairwise(grid)):
                raise ValueError(f"timesteps must descend within 0..{len(self) - 1}, not {timesteps}")
        else:
            total, kind = self.config.num_train_timesteps, self.config.schedule
            grid = sampling_grid(int(num_inference_steps or 0), self.config.training_steps, kind, total)
        self.num_inference_steps = len(grid)
        self._use_grid(grid, device)

    def _position(self, timestep: Any) -> int:
        """Return the position of the current step.

        The first call finds it by the timestep, because image-to-image pipelines start in the middle; later
        calls count. The nearest timestep is taken, since pipelines may pass one in half precision.
        """
        if self._step_index is None:
            near = (self.timesteps.double().cpu() - float(timestep)).abs()
            self._step_index = int(near.argmin()) if self._begin_index is None else self._begin_index
        return self._step_index

    def _level(self, t: int) -> tuple[float, float]:
        """Return alpha and sigma of a timestep."""
        return float(self.levels.alpha[t]), float(self.levels.sigma[t])

    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        eta: float = 0.0,
        generator: Generators = None,
        return_dict: bool = True,
    ) -> TDDSchedulerOutput | tuple[Tensor, Tensor]:
        """Go from one timestep to the next.

        Args:
            model_output: output of the network at `sample`, the same shape.
            timestep: one of `timesteps`.
            sample: noisy sample `(rows, ...)`.
            eta: how far the jump overshoots the next timestep, as a fraction of it, in [0, 1]; the difference
                is noised back. 0 is deterministic.
            generator: source of that noise.
            return_dict: return an object instead of a tuple.

        Returns:
            The sample at the next timestep and the estimate of the clean sample; equal at the last step.

        Raises:
            ValueError: if `set_timesteps` was not called, or eta is out of range.
        """
        if self.num_inference_steps is None:
            raise ValueError("call set_timesteps before step")
        if not 0 <= eta <= 1:
            raise ValueError(f"eta must lie in [0, 1], not {eta}")
        position = self._position(timestep)
        alpha, sigma = (torch.tensor(level) for level in self._level(self.grid[position]))
        # pipelines pass half precision, in which (x - sigma eps) / alpha loses too much at high noise
        x = sample.to(torch.promote_types(sample.dtype, torch.float32))
        clean, eps = to_x0_eps(model_output, x, alpha, sigma, self.prediction)
        if position < self.config.clip_steps:
            clean = self._threshold(clean)
            eps = (x - alpha * clean) / sigma  # so that x is still alpha clean + sigma eps
        # the last step returns x_0 itself; Diffusers' TCDScheduler ends at timestep 0, with some noise left
        last = position + 1 == len(self.grid)
        previous = clean if last else self._jump(clean, eps, self.grid[position + 1], eta, generator)
        self._step_index = position + 1
        previous, clean = previous.to(sample.dtype), clean.to(sample.dtype)
        return TDDSchedulerOutput(previous, clean) if return_dict else (previous, clean)

    def _jump(self, clean: Tensor, eps: Tensor, after: int, eta: float, generator: Generators) -> Tensor:
        """Jump to timestep floor((1 - eta) after), then add noise up to `after` (gamma sampling)."""
        target = math.floor((1 - eta) * after)
        alpha, sigma = self._level(target)
        x: Tensor = alpha * clean + sigma * eps
        if target == after:
            return x
        alpha_after, sigma_after = self._level(after)
        # scaling to alpha_after scales the noise already in x, too; fresh noise supplies the missing variance
        scale = alpha_after / alpha
        spread = math.sqrt(max(0.0, sigma_after**2 - (scale * sigma) ** 2))
        noise: Tensor = randn_tensor(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        return scale * x + spread * noise

    def _threshold(self, clean: Tensor) -> Tensor:
        """Clip each sample to a high quantile of its absolute values, then scale it to [-1, 1].

        This is dynamic thresholding (Saharia et al., arXiv 2205.11487, section 2.3); samples whose quantile
        is below 1 are only clipped to [-1, 1].
        """
        flat = clean.flatten(1).abs()
        limit = torch.quantile(flat, self.config.clip_quantile, dim=1).clamp(min=1)
        limit = limit.view(-1, *(1,) * (clean.dim() - 1))
        return clean.clamp(-limit, limit) / limit

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return alpha x_0 + sigma noise `(rows, ...)` at values of `timesteps` `(rows,)`."""
        # flow schedulers have fractional timesteps, so each is looked up as the nearest in the table
        near = (self.levels.times[:, None].double() - timesteps.flatten().double().cpu()).abs()
        t = near.argmin(0).to(original_samples.device)
        levels = self.levels.to(original_samples.device)
        noised: Tensor = levels.noised(original_samples, noise, t)
        return noised.to(original_samples.dtype)


class TDDScheduler(_FewStepScheduler):
    """Sampler for variance-preserving students: SD 1.5, SDXL and pixel models.

    The defaults equal those of Diffusers' other schedulers, because `from_config` copies only values that
    differ from the defaults of the other scheduler.

    Args:
        num_train_timesteps: T of the base model.
        beta_start: first beta.
        beta_end: last beta.
        beta_schedule: `linear`, `scaled_linear` or `squaredcos_cap_v2`.
        trained_betas: betas `(T,)` to use instead of a schedule.
        prediction_type: `epsilon`, `v_prediction` or `sample`.
        rescale_betas_zero_snr: end at pure noise (Lin et al., arXiv 2305.08891, algorithm 1).
        training_steps: N of the grid that the student was trained on.
        schedule: `equidistant`, or `non_equidistant` for 5 to 7 steps.
        clip_steps: number of first steps with dynamic thresholding of the clean sample.
        clip_quantile: quantile of that thresholding.
    """

    _compatibles = [kind.name for kind in KarrasDiffusionSchedulers] + [
        "LCMScheduler",
        "TCDScheduler",
    ]

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        trained_betas: list[float] | None = None,
        prediction_type: str = "epsilon",
        rescale_betas_zero_snr: bool = False,
        training_steps: int = 250,
        schedule: ScheduleKind = "equidistant",
        clip_steps: int = 0,
        clip_quantile: float = 0.995,
    ) -> None:
        """Tabulate the levels; see the class for the arguments."""
        if prediction_type not in ("epsilon", "v_prediction", "sample"):
            raise ValueError(f"prediction_type: epsilon, v_prediction or sample, not '{prediction_type}'")
        betas = _betas(beta_schedule, beta_start, beta_end, num_train_timesteps)
        if trained_betas is not None:
            betas = torch.tensor(trained_betas, dtype=torch.float32)
        self.alphas_cumprod = torch.cumprod(1 - betas, 0)
        if rescale_betas_zero_snr:
            self.alphas_cumprod = _zero_terminal(self.alphas_cumprod)
        self.levels = Levels.from_alphas_cumprod(self.alphas_cumprod)
        self.prediction = cast("Prediction", prediction_type)
        self._start()


class TDDFlowScheduler(_FewStepScheduler):
    """Sampler for flow-matching students: SD3 and FLUX.

    Args:
        num_train_timesteps: T of the base model.
        shift: shift of the sigmas, as in the base model's scheduler.
        use_dynamic_shifting: use the shift exp(mu) that the pipeline computes from the picture's size.
        use_flow_sigmas: makes pipelines leave the sigmas to this scheduler.
        training_steps: N of the grid that the student was trained on.
        schedule: `equidistant`, or `non_equidistant` for 5 to 7 steps.
        clip_steps: number of first steps with dynamic thresholding of the clean sample.
        clip_quantile: quantile of that thresholding.
        base_image_seq_len: number of tokens at which mu is `base_shift`; read by the FLUX pipeline.
        max_image_seq_len: number of tokens at which mu is `max_shift`.
        base_shift: mu of the smallest pictures.
        max_shift: mu of the largest pictures.
    """

    _compatibles = ["FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler"]  # noqa: RUF012
    prediction: Prediction = "flow"

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        shift: float = 1.0,
        use_dynamic_shifting: bool = False,
        use_flow_sigmas: bool = True,
        training_steps: int = 250,
        schedule: ScheduleKind = "equidistant",
        clip_steps: int = 0,
        clip_quantile: float = 0.995,
        base_image_seq_len: int = 256,
        max_image_seq_len: int = 4096,
        base_shift: float = 0.5,
        max_shift: float = 1.15,
    ) -> None:
        """Tabulate the levels; see the class for the arguments."""
        self.levels = Levels.flow(1.0 if use_dynamic_shifting else shift)
        self._start()

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        timesteps: list[int] | None = None,
        mu: float | None = None,
    ) -> None:
        """Set the timesteps; `mu` is the logarithm of a dynamic shift, the rest is as in the base class."""
        if self.config.use_dynamic_shifting and mu is not None:
            self.levels = Levels.flow(math.exp(mu))
        super().set_timesteps(num_inference_steps, device, timesteps)

    def scale_noise(self, sample: Tensor, timestep: Tensor, noise: Tensor) -> Tensor:
        """Return alpha x_0 + sigma noise; flow pipelines call `add_noise` by this name."""
        return self.add_noise(sample, noise, timestep)


def scheduler_of(
    levels: Levels,
    prediction: Prediction,
    training_steps: int,
    schedule: ScheduleKind = "equidistant",
    clip_steps: int = 0,
) -> TDDScheduler | TDDFlowScheduler:
    """Return the scheduler for a student with known noise levels.

    Args:
        levels: noise levels of the student.
        prediction: what its network predicts.
        training_steps: N of the grid that it was trained on.
        schedule: spacing of the steps.
        clip_steps: number of first steps with dynamic thresholding.
    """
    scheduler: TDDScheduler | TDDFlowScheduler
    kind: dict[str, Any] = {
        "training_steps": training_steps,
        "schedule": schedule,
        "clip_steps": clip_steps,
    }
    if prediction == "flow":
        scheduler = TDDFlowScheduler(**kind)
    else:
        scheduler = TDDScheduler(prediction_type=prediction, **kind)
    scheduler.levels = levels.to(torch.device("cpu"))
    return scheduler


def _betas(kind: str, start: float, end: float, count: int) -> Tensor:
    """Return the betas `(count,)` of a schedule, in float32.

    Raises:
        ValueError: if the schedule is unknown.
    """
    if kind == "linear":
        return torch.linspace(start, end, count, dtype=torch.float32)
    if kind == "scaled_linear":
        return torch.linspace(start**0.5, end**0.5, count, dtype=torch.float32) ** 2
    if kind == "squaredcos_cap_v2":  # Nichol and Dhariwal, arXiv 2102.09672, eq. 17
        u = torch.linspace(0, 1, count + 1, dtype=torch.float64)
        bar = torch.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2
        return (1 - bar[1:] / bar[:-1]).clamp(max=0.999).float()
    raise ValueError(f"beta_schedule: linear, scaled_linear or squaredcos_cap_v2, not '{kind}'")


def _zero_terminal(alphas_cumprod: Tensor) -> Tensor:
    """Shift and scale sqrt(abar) so that the last is 0 and the first is unchanged (arXiv 2305.08891)."""
    root = alphas_cumprod.sqrt()
    first, last = root[0], root[-1]
    return ((root - last) * first / (first - last)) ** 2
