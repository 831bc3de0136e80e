"""Randomized block Krylov SVD of batched linear operators."""

from pullback.krylov.options import QUALITIES, Progress, check_rank, tolerance
from pullback.krylov.result import TENSORS, SVDResult
from pullback.krylov.solver import svd

__all__ = ["QUALITIES", "TENSORS", "Progress", "SVDResult", "check_rank", "svd", "tolerance"]
