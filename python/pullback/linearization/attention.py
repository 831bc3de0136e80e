"""The rule of attention, whose tangents share its probabilities, tile by tile."""

from __future__ import annotations

from collections.abc import Sequence

from pullback.linearization.linear import Call, Linear, Tangent, UnrecordableError, rule
from pullback_ext import attention_cotangents, attention_tangents


class Attention(Linear):
    """Tangents and cotangents through softmax(scale q kᵀ + bias) v, with (o, log-sum-exp) kept.

    Args:
        call: of the native operator.
    """

    only_first = True

    def __init__(self, call: Call) -> None:
        self.q, self.k, self.v, self.bias, self.scale, self.causal = call.args
        self.o, self.lse = call.result
        self.places = tuple(position for position, _ in call.places)

    def push(self, tangents: Sequence[Tangent]) -> Sequence[Tangent]:
        """The tangent of o from those of q, k and v."""
        given = dict(zip(self.places, tangents, strict=True))
        pushed = attention_tangents(
            self.q, self.k, self.v, self.o, self.lse,
            given.get(0), given.get(1), given.get(2), self.bias,
            scale=self.scale, causal=self.causal,
        )  # fmt: skip
        return (pushed,)

    def pull(self, cotangents: Sequence[Tangent]) -> Sequence[Tangent]:
        """The cotangents of q, k and v, as far as they depend on x."""
        cotangent = cotangents[0]
        assert cotangent is not None
        found = attention_cotangents(
            self.q, self.k, self.v, self.o, self.lse, cotangent, self.bias,
            scale=self.scale, causal=self.causal, with_kv=self.places != (0,),
        )  # fmt: skip
        return [found[place] for place in self.places]


@rule("pullback::attention")
def _attention(call: Call) -> Linear:
    if call.depends(3):
        raise UnrecordableError("a mask of attention depends on x")
    return Attention(call)
