"""Steps between timesteps: deterministic sampling on a model's own schedule."""

from pullback.sampling.steps import ddim, stride

__all__ = ["ddim", "stride"]
