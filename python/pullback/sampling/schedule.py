"""What sampling needs to know of a schedule, and what latents hold at its timesteps."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch


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


class Level(NamedTuple):
    """What latents hold at a timestep: x_t = signal x_0 + sigma ε.

    Attributes:
        signal: of the data.
        sigma: of the noise.
    """

    signal: float
    sigma: float


def level(schedule: Schedule, t: float) -> Level:
    """What latents hold at a timestep.

    Args:
        schedule: the schedule.
        t: timestep in training units; of a fraction the whole part counts, as in the published
            code. −1 is where the scheduler's own steps end: at the data, or, where its
            `set_alpha_to_one` is false, at the least noise of training.
    """
    if schedule.prediction_type == "flow":
        sigma = max(t, 0) / schedule.num_timesteps
        return Level(1 - sigma, sigma)
    to_one = schedule.scheduler.config.get("set_alpha_to_one", True)
    if t < 0 and (to_one or schedule.continuous):
        return Level(1.0, 0.0)
    if schedule.continuous:
        return Level(*map(float, schedule.signal_and_noise(torch.tensor(int(t), device="cpu"))))
    # In float32, as the schedulers of diffusers have it.
    share = schedule.alphas_cumprod[max(int(t), 0)]
    return Level(float(share**0.5), float((1 - share) ** 0.5))


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


def even_grid(schedule: Schedule, start: int, stop: int = -1, *, steps: int = 50) -> list[int]:
    """Timesteps from one down to another in strides, in training units, both included.

    Args:
        schedule: the schedule.
        start: the first, in training units.
        stop: the last in training units, a whole number of strides below; −1 is the clean image,
            to which the last step may be shorter.
        steps: steps that the whole schedule would take; they set the stride.

    Raises:
        ValueError: the stop lies above the start or off the stride.
    """
    down = stride(schedule, steps)
    if stop != -1 and (not 0 <= stop <= start or (start - stop) % down):
        raise ValueError(
            f"Expected stop = -1, or a whole number of strides of {down} below start = {start}, "
            f"got {stop}. Choose another number of steps (now {steps}) or another start."
        )
    # The data of a flow are at t = 0, from where no step leads on.
    least = max(stop, 0) if schedule.prediction_type == "flow" else stop
    return [*range(start, least, -down), stop]


def published_grid(schedule: Schedule, start: float, *, steps: int = 100) -> list[float]:
    """The timesteps of the published code, fractions among them, from the first at or below start.

    They divide the schedule evenly into `steps` points; noise levels are those of the whole part,
    where the network is told the fraction, and the walk ends at t = 0 and not at the data. For
    reproducing figures; `even_grid` is the exact one.

    Args:
        schedule: the schedule, of which the number of training timesteps matters.
        start: in training units.
        steps: points of the whole grid.

    Source: the code of Park et al. 2023, arXiv:2307.12868.
    """
    points = torch.linspace(0, 1, steps, dtype=torch.float64, device="cpu")
    grid = (points * (schedule.num_timesteps - 1)).flip(0).tolist()
    return [t for t in grid if t <= start + 1e-9]
