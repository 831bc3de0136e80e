"""Randomized block Krylov SVD of batched linear operators."""

from pullback.krylov.options import QUALITIES, Progress, check_rank, tolerance
from pullback.krylov.result import SVDResult
from pullback.krylov.solver import svd

__all__ = ["QUALITIES", "Progress", "SVDResult", "check_rank", "svd", "tolerance"]
