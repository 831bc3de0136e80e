"""Semantic directions: one vector with where and when it applies, from a basis, file or hub."""

from pullback.directions.direction import Direction
from pullback.directions.features import Trajectory, trajectory

__all__ = ["Direction", "Trajectory", "trajectory"]
