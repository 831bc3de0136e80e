"""Semantic directions: one vector with where and when it applies, and the ways to find them."""

from pullback.directions.boundary import Boundary, boundary
from pullback.directions.components import PrincipalComponents
from pullback.directions.direction import Direction
from pullback.directions.disentangling import disentangle
from pullback.directions.features import Trajectory, trajectory
from pullback.directions.labelling import LabelledSamples, label_samples
from pullback.directions.local import LocalDirections, local, toward
from pullback.directions.mixing import MixingStep, Radii, mixing_step, radii
from pullback.directions.principal import pca, pca_of
from pullback.directions.spectral import SpectralDirections, spectral
from pullback.directions.streaming import PrincipalAxes, StreamingPCA
from pullback.directions.supervised import SupervisedDirection, from_pairs, supervised

__all__ = [
    "Boundary",
    "Direction",
    "LabelledSamples",
    "LocalDirections",
    "MixingStep",
    "PrincipalAxes",
    "PrincipalComponents",
    "Radii",
    "SpectralDirections",
    "StreamingPCA",
    "SupervisedDirection",
    "Trajectory",
    "boundary",
    "disentangle",
    "from_pairs",
    "label_samples",
    "local",
    "mixing_step",
    "pca",
    "pca_of",
    "radii",
    "spectral",
    "supervised",
    "toward",
    "trajectory",
]
