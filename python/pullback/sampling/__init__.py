"""Walks between noise and data, for whoever has a schedule and a prediction function."""

from pullback.sampling.clipping import Clipping, clipping
from pullback.sampling.inversion import SCHEMES, ascend, residuals, scatter
from pullback.sampling.noise import FreshNoise, gaussian_noise
from pullback.sampling.predictions import PREDICTIONS, clean_of, noise_of
from pullback.sampling.schedule import (
    Level,
    Schedule,
    even_grid,
    level,
    published_grid,
    stride,
)
from pullback.sampling.steps import step
from pullback.sampling.walks import SOLVERS, Predict, Visit, walk

__all__ = [
    "PREDICTIONS",
    "SCHEMES",
    "SOLVERS",
    "Clipping",
    "FreshNoise",
    "Level",
    "Predict",
    "Schedule",
    "Visit",
    "ascend",
    "clean_of",
    "clipping",
    "even_grid",
    "gaussian_noise",
    "level",
    "noise_of",
    "published_grid",
    "residuals",
    "scatter",
    "step",
    "stride",
    "walk",
]
