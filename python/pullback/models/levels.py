"""The noise levels of schedulers whose networks are told another time than whole timesteps."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch

#: Their latents are x_0 + σ ε, and their networks are told a function of σ.
_SIGMAS = frozenset(
    {
        "CosineDPMSolverMultistepScheduler",
        "EDMDPMSolverMultistepScheduler",
        "EDMEulerScheduler",
        "EulerDiscreteScheduler",  # where its timestep_type is "continuous"
    }
)
#: Its networks are told a share of the schedule, of which ᾱ is a function.
_SHARE = "DDPMWuerstchenScheduler"
CONTINUOUS = _SIGMAS | {_SHARE}

_SHARES = 1000  # timesteps in which a schedule without a number of its own is counted


@dataclass(frozen=True)
class Levels:
    """The noise levels of a schedule, numbered from the least noise on.

    They are those of the scheduler's own grid of as many steps as it has training timesteps.

    Attributes:
        told: what the network is told at each, float32 `[n]`.
        signal, sigma: what its input holds of data and noise, float64 `[n]`.
        deviation: of the data, by which the network's output is scaled.
    """

    told: torch.Tensor
    signal: torch.Tensor
    sigma: torch.Tensor
    deviation: float


def is_continuous(scheduler: Any) -> bool:
    """Whether a scheduler is one of those, by its class and its settings."""
    kinds = {kind.__name__ for kind in type(scheduler).__mro__}
    if "EulerDiscreteScheduler" in kinds:
        # With any other prediction it tells whole timesteps, whatever the setting.
        config = scheduler.config
        return (config.timestep_type, config.prediction_type) == ("continuous", "v_prediction")
    return bool(kinds & CONTINUOUS)


def count_of(scheduler: Any) -> int:
    """The timesteps of a schedule: of training, or 1000 where it says no number."""
    return int(scheduler.config.get("num_train_timesteps", _SHARES))


def levels_of(scheduler: Any) -> Levels:
    """The noise levels of a scheduler for which `is_continuous`."""
    own, count = copy.deepcopy(scheduler), count_of(scheduler)
    with torch.device("cpu"):
        own.set_timesteps(count)
    told = own.timesteps[:count].cpu().flip(0)
    if any(kind.__name__ == _SHARE for kind in type(scheduler).__mro__):
        share = own._alpha_cumprod(told, told.device).double()
        return Levels(told.float(), share.sqrt(), (1 - share).sqrt(), 1.0)
    noise = torch.as_tensor(own.sigmas)[:count].cpu().double().flip(0)
    deviation = float(scheduler.config.get("sigma_data", 1.0))
    scale = (noise.square() + deviation**2).rsqrt()
    return Levels(told.float(), scale, noise * scale, deviation)
