"""Semantic directions: one vector with where and when it applies, from a basis, file or hub."""

from pullback.directions.direction import Direction
from pullback.directions.local import LocalDirections, local, toward
from pullback.directions.spectral import SpectralDirections, spectral

__all__ = [
    "Direction",
    "LocalDirections",
    "SpectralDirections",
    "local",
    "spectral",
    "toward",
]
