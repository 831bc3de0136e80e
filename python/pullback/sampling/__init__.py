"""Steps between timesteps, for whoever has a schedule and a prediction function."""

from pullback.sampling.noise import gaussian_noise
from pullback.sampling.steps import Schedule, denoise, stride

__all__ = ["Schedule", "denoise", "gaussian_noise", "stride"]
