"""Subspaces as points of the Grassmann manifold: angles, distances, geodesics, means, matching.

A subspace is given by rows `[..., k, N]` that span it, such as the flattened u or v of a basis.
All small algebra is in float64.
"""

from pullback.geometry.grassmann.angles import distance, principal_angles
from pullback.geometry.grassmann.chance import random_distance
from pullback.geometry.grassmann.frames import frame
from pullback.geometry.grassmann.matching import Matching, match
from pullback.geometry.grassmann.means import chordal_mean, frame_mean, karcher_mean
from pullback.geometry.grassmann.pairs import Pairs, all_pairs
from pullback.geometry.grassmann.tangents import exp, log, polar

__all__ = [
    "Matching",
    "Pairs",
    "all_pairs",
    "chordal_mean",
    "distance",
    "exp",
    "frame",
    "frame_mean",
    "karcher_mean",
    "log",
    "match",
    "polar",
    "principal_angles",
    "random_distance",
]
