"""Batched linear operators: the Jacobian of a map, and the algebra of operators."""

from pullback.operators.algebra import Algebra, Combination, Estimate, Gram, Mean
from pullback.operators.jacobian import JacobianOperator

__all__ = ["Algebra", "Combination", "Estimate", "Gram", "JacobianOperator", "Mean"]
