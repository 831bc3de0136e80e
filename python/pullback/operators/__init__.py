"""Batched linear operators: the Jacobian of a map, and the algebra of operators."""

from pullback.operators.base import BlockOperator, Combination, Gram, Stacked
from pullback.operators.estimates import Estimate
from pullback.operators.jacobian import JacobianOperator
from pullback.operators.memory import empty_cache, is_out_of_memory, measure, rows_at_once

__all__ = [
    "BlockOperator",
    "Combination",
    "Estimate",
    "Gram",
    "JacobianOperator",
    "Stacked",
    "empty_cache",
    "is_out_of_memory",
    "measure",
    "rows_at_once",
]
