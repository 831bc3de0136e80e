"""What directions do, and the papers' analyses of local bases: each with its interval and control.

Effects of directions are measured by `evaluate`. The analyses take bases or measurements of N
samples at T timesteps, and each gives numbers, and for every published trend whether it is seen.
"""

from pullback.analysis.ablation import Ablation, ablation
from pullback.analysis.bases import Bases, sampled, walked
from pullback.analysis.conditions import (
    AcrossConditions,
    ByClass,
    across_conditions,
    by_class,
    spread,
)
from pullback.analysis.controls import random_like, shuffled
from pullback.analysis.cost import Cost, counted
from pullback.analysis.curvature import Curvature, curvature
from pullback.analysis.directions import evaluate, matched
from pullback.analysis.evaluation import Effect, Evaluation
from pullback.analysis.findings import Analysis, Finding
from pullback.analysis.frequencies import Frequencies, frequencies
from pullback.analysis.intervals import at_equal_energy, summaries, summary
from pullback.analysis.linearity import Linearity, Moves, RankRatio, linearity, rank_ratio
from pullback.analysis.measuring import (
    ablated,
    ends,
    joined,
    moves,
    repeated,
    similarity_of,
    under_conditions,
    whole_spectrum,
)
from pullback.analysis.radius import Radius, radius
from pullback.analysis.spectra import Spectra, effective_rank, numerical_rank, spectra
from pullback.analysis.tangent_spaces import (
    AcrossSamples,
    AcrossTimes,
    across_samples,
    across_times,
)
from pullback.analysis.trends import rank_correlation

__all__ = [
    "Ablation",
    "AcrossConditions",
    "AcrossSamples",
    "AcrossTimes",
    "Analysis",
    "Bases",
    "ByClass",
    "Cost",
    "Curvature",
    "Effect",
    "Evaluation",
    "Finding",
    "Frequencies",
    "Linearity",
    "Moves",
    "Radius",
    "RankRatio",
    "Spectra",
    "ablated",
    "ablation",
    "across_conditions",
    "across_samples",
    "across_times",
    "at_equal_energy",
    "by_class",
    "counted",
    "curvature",
    "effective_rank",
    "ends",
    "evaluate",
    "frequencies",
    "joined",
    "linearity",
    "matched",
    "moves",
    "numerical_rank",
    "radius",
    "random_like",
    "rank_correlation",
    "rank_ratio",
    "repeated",
    "sampled",
    "shuffled",
    "similarity_of",
    "spectra",
    "spread",
    "summaries",
    "summary",
    "under_conditions",
    "walked",
    "whole_spectrum",
]
