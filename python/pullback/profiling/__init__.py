"""Where the time of a computation of bases goes, and what would make it faster."""

from pullback.profiling.advice import Advice
from pullback.profiling.growth import BATCHES, RANKS, Scaling, ScalingPoint, scaling
from pullback.profiling.kinds import KINDS
from pullback.profiling.machine import Machine, measure_machine
from pullback.profiling.result import ProductCost, Profile, Work
from pullback.profiling.workload import profile

__all__ = [
    "BATCHES",
    "KINDS",
    "RANKS",
    "Advice",
    "Machine",
    "ProductCost",
    "Profile",
    "Scaling",
    "ScalingPoint",
    "Work",
    "measure_machine",
    "profile",
    "scaling",
]
