"""What sampling needs to know of a schedule, without a model."""

from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Schedule:
    scheduler: Any
    prediction_type: str = "epsilon"
    num_timesteps: int = 1000
    continuous: bool = False
    deviation: float = 1.0

    @property
    def alphas_cumprod(self):
        return self.scheduler.alphas_cumprod


class Given:
    """Noise in place of `FreshNoise`: draws of its own, kept by timestep, and how often asked."""

    def __init__(self, rng):
        self._rng, self.drawn = rng, {}

    def at(self, t, like):
        if t not in self.drawn:
            draw = torch.randn(like.shape, generator=self._rng, dtype=torch.float64)
            self.drawn[t] = draw.to(like.dtype)
        return self.drawn[t]
