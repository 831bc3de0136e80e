"""Semantic directions: one vector with where and when it applies, from a basis, file or hub."""

from pullback.directions.direction import Direction

__all__ = ["Direction"]
