"""Semantic directions: one vector with where and when it applies, from a basis, file or hub."""

from pullback.directions.attention import VARIANTS, AttentionDirections, attention
from pullback.directions.comparing import Comparison, compare, retained
from pullback.directions.direction import Direction
from pullback.directions.ranking import Ranking, rank_by
from pullback.directions.weights_of_attention import AttentionLayer, attention_layers

__all__ = [
    "VARIANTS",
    "AttentionDirections",
    "AttentionLayer",
    "Comparison",
    "Direction",
    "Ranking",
    "attention",
    "attention_layers",
    "compare",
    "rank_by",
    "retained",
]
