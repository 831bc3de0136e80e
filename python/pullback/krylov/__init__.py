"""Randomized block Krylov SVD of batched linear operators."""

from pullback.krylov.solver import (
    QUALITIES,
    BlockOperator,
    Progress,
    SVDResult,
    check_rank,
    svd,
    tolerance,
)

__all__ = [
    "QUALITIES",
    "BlockOperator",
    "Progress",
    "SVDResult",
    "check_rank",
    "svd",
    "tolerance",
]
