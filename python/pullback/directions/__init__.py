"""Semantic directions: one vector with where and when it applies, from a basis, file or hub."""

from pullback.directions.boundary import Boundary, boundary
from pullback.directions.components import PrincipalComponents
from pullback.directions.direction import Direction
from pullback.directions.disentangling import disentangle
from pullback.directions.features import Trajectory, trajectory
from pullback.directions.labelling import LabelledSamples, label_samples
from pullback.directions.mixing import MixingStep, Radii, mixing_step, radii
from pullback.directions.principal import pca, pca_of
from pullback.directions.streaming import PrincipalAxes, StreamingPCA
from pullback.directions.supervised import SupervisedDirection, from_pairs, supervised

__all__ = [
    "Boundary",
    "Direction",
    "LabelledSamples",
    "MixingStep",
    "PrincipalAxes",
    "PrincipalComponents",
    "Radii",
    "StreamingPCA",
    "SupervisedDirection",
    "Trajectory",
    "boundary",
    "disentangle",
    "from_pairs",
    "label_samples",
    "mixing_step",
    "pca",
    "pca_of",
    "radii",
    "supervised",
    "trajectory",
]
