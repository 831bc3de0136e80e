"""A plain-torch twin of every native operator: the oracle of the tests, and the fallback.

Written for accuracy, not for speed: everything is float64 inside. Same checks and same messages as
the native operators. These functions are differentiable by ordinary torch rules.
"""

from pullback_ext.reference.attention import (
    attention,
    attention_cotangents,
    attention_tangents,
    check_attention,
    check_attention_cotangents,
    check_attention_tangents,
)
from pullback_ext.reference.blocks import (
    MOST_ROWS,
    block_step,
    check_block_step,
    check_gram,
    check_orthonormalize,
    check_ritz,
    check_squared_singular_values,
    dependent_below,
    gram,
    orthonormalize,
    ritz,
    squared_singular_values,
)
from pullback_ext.reference.checks import FLOATS, working_dtype
from pullback_ext.reference.normalization import (
    check_normalize_tangents,
    is_dense,
    normalize_tangents,
)

__all__ = [
    "FLOATS",
    "MOST_ROWS",
    "attention",
    "attention_cotangents",
    "attention_tangents",
    "block_step",
    "check_attention",
    "check_attention_cotangents",
    "check_attention_tangents",
    "check_block_step",
    "check_gram",
    "check_normalize_tangents",
    "check_orthonormalize",
    "check_ritz",
    "check_squared_singular_values",
    "dependent_below",
    "gram",
    "is_dense",
    "normalize_tangents",
    "orthonormalize",
    "ritz",
    "squared_singular_values",
    "working_dtype",
]
