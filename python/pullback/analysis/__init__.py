"""What directions do, measured: effects, controls, transfer and cost, each with its interval."""

from pullback.analysis.controls import random_like, shuffled
from pullback.analysis.cost import Cost, counted
from pullback.analysis.directions import evaluate, matched
from pullback.analysis.evaluation import Effect, Evaluation
from pullback.analysis.intervals import at_equal_energy, summary

__all__ = [
    "Cost",
    "Effect",
    "Evaluation",
    "at_equal_energy",
    "counted",
    "evaluate",
    "matched",
    "random_like",
    "shuffled",
    "summary",
]
