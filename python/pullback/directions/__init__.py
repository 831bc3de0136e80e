"""Semantic directions: one vector with where and when it applies, and the ways to find them."""

from pullback.directions.attention import VARIANTS, AttentionDirections, attention
from pullback.directions.boundary import Boundary, boundary
from pullback.directions.comparing import Comparison, compare, retained
from pullback.directions.components import PrincipalComponents
from pullback.directions.direction import Direction
from pullback.directions.disentangling import disentangle
from pullback.directions.entries import load, save
from pullback.directions.features import Trajectory, trajectory
from pullback.directions.gains import GainOverTime, gain_over_time
from pullback.directions.labelling import LabelledSamples, Score, label_samples, scored
from pullback.directions.local import LocalDirections, local, toward
from pullback.directions.methods import Method, Methods, available
from pullback.directions.mixing import MixingStep, Radii, mixing_step, radii
from pullback.directions.principal import pca, pca_of
from pullback.directions.ranking import Ranking, rank_by
from pullback.directions.spectral import SpectralDirections, spectral
from pullback.directions.streaming import PrincipalAxes, StreamingPCA
from pullback.directions.supervised import SupervisedDirection, from_pairs, supervised
from pullback.directions.weights_of_attention import AttentionLayer, attention_layers

__all__ = [
    "VARIANTS",
    "AttentionDirections",
    "AttentionLayer",
    "Boundary",
    "Comparison",
    "Direction",
    "GainOverTime",
    "LabelledSamples",
    "LocalDirections",
    "Method",
    "Methods",
    "MixingStep",
    "PrincipalAxes",
    "PrincipalComponents",
    "Radii",
    "Ranking",
    "Score",
    "SpectralDirections",
    "StreamingPCA",
    "SupervisedDirection",
    "Trajectory",
    "attention",
    "attention_layers",
    "available",
    "boundary",
    "compare",
    "disentangle",
    "from_pairs",
    "gain_over_time",
    "label_samples",
    "load",
    "local",
    "mixing_step",
    "pca",
    "pca_of",
    "radii",
    "rank_by",
    "retained",
    "save",
    "scored",
    "spectral",
    "supervised",
    "toward",
    "trajectory",
]
