"""Deterministic steps between timesteps: DDIM, and its counterpart for flow models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from diffusers import DDIMScheduler

from pullback.sampling.predictions import clean_of, noise_of


class Schedule(Protocol):
    """What sampling needs to know of a model: its scheduler, and what its network predicts."""

    @property
    def scheduler(self) -> Any:
        """A diffusers scheduler."""

    @property
    def num_timesteps(self) -> int:
        """Training timesteps of the schedule."""

    @property
    def alphas_cumprod(self) -> torch.Tensor:
        """ᾱ, the share of data in the variance of x_t, `[num_timesteps]`; not of all."""

    @property
    def prediction_type(self) -> str:
        """What the network predicts, one of `PREDICTIONS`."""

    @property
    def continuous(self) -> bool:
        """Whether the schedule has noise levels of its own in place of ᾱ."""

    @property
    def deviation(self) -> float:
        """Of the data, by which the prediction is scaled."""

    def signal_and_noise(self, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What x_t holds of data and noise at timesteps t `[B]`, in training units, `[B]` each."""


def stride(schedule: Schedule, steps: int) -> int:
    """How many timesteps one of `steps` steps over the whole schedule goes down.

    Args:
        schedule: the schedule, of which the number of training timesteps matters.
        steps: steps over the whole schedule.

    Returns:
        The stride in training units.

    Raises:
        ValueError: steps is not between 1 and the number of training timesteps.
    """
    total = schedule.num_timesteps
    if not 1 <= steps <= total:
        raise ValueError(f"Expected steps between 1 and {total}, got {steps}.")
    return total // steps


@torch.no_grad()
def denoise(
    schedule: Schedule,
    predict: Callable[[torch.Tensor, int], torch.Tensor],
    x: torch.Tensor,
    start: int,
    stop: int = -1,
    *,
    steps: int = 50,
) -> torch.Tensor:
    """Take latents from one timestep down to a lower one, deterministically (η = 0).

    For flow models, whose probability flow it follows too, that is a step of Euler's method.

    Args:
        schedule: the schedule that the network was trained on.
        predict: the network's raw prediction `[B, *x_shape]` for latents at a timestep.
        x: latents at `start`, `[B, *x_shape]`.
        start: their timestep, in the scheduler's training units.
        stop: the timestep to arrive at in training units, a whole number of strides below
            `start`; −1, the default, is the clean image (for flow models the same as 0).
        steps: steps that the whole schedule would take; they set the stride.

    Returns:
        Latents at `stop`, `[B, *x_shape]`.

    Raises:
        ValueError: the stop lies above the start or off the stride.

    Cost: one prediction per stride between start and stop.
    Source: Song et al. 2020, arXiv:2010.02502.
    """
    down = stride(schedule, steps)
    if stop != -1 and (not 0 <= stop <= start or (start - stop) % down):
        raise ValueError(
            f"Expected stop = -1, or a whole number of strides of {down} below start = {start}, "
            f"got {stop}. Choose another number of steps (now {steps}) or another start."
        )
    if schedule.prediction_type == "flow":
        for t in range(start, max(stop, 0), -down):
            x = x - min(down, t) / schedule.num_timesteps * predict(x, t)
        return x
    if schedule.continuous:
        for t in range(start, stop, -down):
            x = _step_between_levels(schedule, predict(x, t), x, t, max(t - down, -1))
        return x
    scheduler, clipped_twice = _ddim(schedule, steps)
    for t in range(start, stop, -down):
        step = scheduler.step(predict(x, t), t, x, use_clipped_model_output=clipped_twice)
        x = step.prev_sample
    return x


def _step_between_levels(
    schedule: Schedule, prediction: torch.Tensor, x: torch.Tensor, t: int, to: int
) -> torch.Tensor:
    """A step of DDIM, which is Euler's in σ, between two noise levels; to the data from −1 on."""
    signal, sigma = schedule.signal_and_noise(torch.tensor(t, device=x.device))
    how = (prediction, x, signal, sigma, schedule.deviation)
    clean = clean_of(schedule.prediction_type, *how)
    clips = schedule.scheduler.config.get("thresholding", False)
    if clips:
        clean = schedule.scheduler._threshold_sample(clean)
    if to < 0:
        return clean
    # Its own step takes the noise from the clipped data.
    noise = (x - signal * clean) / sigma if clips else noise_of(schedule.prediction_type, *how)
    signal, sigma = schedule.signal_and_noise(torch.tensor(to, device=x.device))
    return signal * clean + sigma * noise


#: Their steps clip nothing, whatever their configuration says.
_CLIP_NOTHING = frozenset({"CogVideoXDDIMScheduler", "CogVideoXDPMScheduler", "TCDScheduler"})
#: Their steps take the noise from the clipped x̂_0, where DDIM's keep what the network predicted.
_CLIP_NOISE_TOO = frozenset(
    {
        "DEISMultistepScheduler",
        "DPMSolverMultistepScheduler",
        "DPMSolverSinglestepScheduler",
        "HeunDiscreteScheduler",
        "SASolverScheduler",
        "UniPCMultistepScheduler",
    }
)


def _ddim(schedule: Schedule, steps: int) -> tuple[DDIMScheduler, bool]:
    """A scheduler that takes DDIM steps with another one's ᾱ, and clips x̂_0 where that one does.

    Nothing else is taken from DDIM's own defaults, which are those of the models of its paper.

    Returns:
        The scheduler, and whether the noise is to be taken from the clipped x̂_0.
    """
    config = schedule.scheduler.config
    kinds = {kind.__name__ for kind in type(schedule.scheduler).__mro__}
    clips = {"clip_sample": False, "thresholding": False}
    if not kinds & _CLIP_NOTHING:
        names = (*clips, "clip_sample_range", "dynamic_thresholding_ratio", "sample_max_value")
        clips |= {name: config[name] for name in names if name in config}
    with torch.device("cpu"):  # and not on torch's default device, which may hold no numbers
        scheduler = DDIMScheduler(
            schedule.num_timesteps, prediction_type=schedule.prediction_type, **clips
        )
        scheduler.alphas_cumprod = schedule.alphas_cumprod.cpu()
        to_one = config.get("set_alpha_to_one", True)
        scheduler.final_alpha_cumprod = torch.tensor(1.0) if to_one else scheduler.alphas_cumprod[0]
        scheduler.set_timesteps(steps)
    return scheduler, bool(kinds & _CLIP_NOISE_TOO)
