"""Semantic directions: one vector with where and when it applies, from a basis, file or hub."""

from pullback.directions.components import PrincipalComponents
from pullback.directions.direction import Direction
from pullback.directions.features import Trajectory, trajectory
from pullback.directions.principal import pca, pca_of
from pullback.directions.streaming import PrincipalAxes, StreamingPCA

__all__ = [
    "Direction",
    "PrincipalAxes",
    "PrincipalComponents",
    "StreamingPCA",
    "Trajectory",
    "pca",
    "pca_of",
    "trajectory",
]
