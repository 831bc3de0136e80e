"""Steps between timesteps, for whoever has a schedule and a prediction function."""

from pullback.sampling.noise import gaussian_noise
from pullback.sampling.predictions import PREDICTIONS, clean_of, noise_of
from pullback.sampling.steps import Schedule, denoise, stride

__all__ = [
    "PREDICTIONS",
    "Schedule",
    "clean_of",
    "denoise",
    "gaussian_noise",
    "noise_of",
    "stride",
]
