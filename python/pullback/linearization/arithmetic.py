"""Rules of sums, products, quotients, and functions of single entries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from pullback.linearization.linear import (
    IDENTITY,
    Both,
    Call,
    Linear,
    Rule,
    Single,
    Sum,
    aligned,
    rule,
    summed_to,
)  # fmt: skip

aten = torch.ops.aten


class Scaled(Single):
    """t times a factor that is broadcast with it.

    Args:
        factor: a number, or a tensor of any shape that is broadcast with the input's.
        before: shape of the input.
        after: that of the result.
    """

    def __init__(self, factor: torch.Tensor | float, before: torch.Size, after: torch.Size) -> None:
        self.factor, self.before, self.after = factor, before, after

    def push_one(self, tangent: torch.Tensor) -> torch.Tensor:
        """`[k, *before]` to `[k, *after]`."""
        product = aligned(tangent, len(self.after)) * self.factor
        if product.shape[1:] != self.after:  # something else was broadcast with them
            product = product.expand(tangent.shape[0], *self.after)
        return product

    def pull_one(self, cotangent: torch.Tensor) -> torch.Tensor:
        """`[k, *after]` to `[k, *before]`."""
        product = cotangent * self.factor
        return product if self.before == self.after else summed_to(product, self.before)


def _spread(tensor: torch.Tensor, after: torch.Tensor) -> Single:
    """A summand that is broadcast to the shape of the sum."""
    before, whole = tensor.shape, after.shape
    if before == whole:
        return IDENTITY
    return Both(
        lambda t: aligned(t, len(whole)).expand(t.shape[0], *whole), lambda u: summed_to(u, before)
    )


def _one_kind(call: Call) -> bool:
    """Whether all tensors and the result have one real dtype, so that no rule must convert."""
    tensors = [a for a in call.args if isinstance(a, torch.Tensor) and a.is_floating_point()]
    whole = [a for a in call.args if isinstance(a, torch.Tensor) and a.is_complex()]
    return not whole and {a.dtype for a in tensors} == {call.result.dtype}


def _factors(call: Call, factors: dict[int, torch.Tensor | float]) -> Linear:
    """The sum over the inputs of factor times tangent."""
    terms = []
    for (position, _), tensor in zip(call.places, call.inputs(), strict=True):
        factor = factors[position]
        if isinstance(factor, float) and factor == 1.0:
            terms.append(_spread(tensor, call.result))
        else:
            terms.append(Scaled(factor, tensor.shape, call.result.shape))
    return terms[0] if len(terms) == 1 else Sum(terms)


@rule("add", "sub", "rsub")
def _sum(call: Call) -> Linear | None:
    if not _one_kind(call):
        return None
    alpha = float(call.argument(2, "alpha", 1))
    signs = {"aten::add": (1.0, alpha), "aten::sub": (1.0, -alpha), "aten::rsub": (-alpha, 1.0)}
    first, second = signs[call.func._schema.name]
    return _factors(call, {0: first, 1: second})


@rule("mul")
def _product(call: Call) -> Linear | None:
    if not _one_kind(call):
        return None
    first, second = call.args
    return _factors(call, {0: second, 1: first})


@rule("div")
def _quotient(call: Call) -> Linear | None:
    if not _one_kind(call) or call.kwargs.get("rounding_mode") is not None:
        return None
    first, second = call.args[:2]
    if not isinstance(second, torch.Tensor):
        return _factors(call, {0: 1.0 / second})
    inverse = second.reciprocal()
    factors: dict[int, Any] = {0: inverse}
    if call.depends(1):
        factors[1] = -(first * inverse) * inverse
    return _factors(call, factors)


@rule("neg")
def _negative(call: Call) -> Linear:
    return _factors(call, {0: -1.0})


@rule("where")
def _where(call: Call) -> Linear | None:
    if len(call.args) != 3 or not _one_kind(call):
        return None
    which = call.args[0]
    return _factors(call, {1: which.to(call.result), 2: (~which).to(call.result)})


@rule("masked_fill")
def _filled(call: Call) -> Linear | None:
    if call.depends(2):
        return None
    return _factors(call, {0: (~call.args[1]).to(call.result)})


def entrywise(slope: Callable[..., torch.Tensor]) -> Rule:
    """The rule of a function of single entries, from its derivative.

    Args:
        slope: the derivative, of the call.
    """

    def derive(call: Call) -> Linear | None:
        if not _one_kind(call):
            return None
        shape = call.result.shape
        return Scaled(slope(call), shape, shape)

    return derive


def _ones(call: Call) -> torch.Tensor:
    return torch.ones_like(call.args[0])


_SLOPES: dict[str, Callable[[Call], torch.Tensor]] = {
    "silu": lambda c: aten.silu_backward(_ones(c), c.args[0]),
    "gelu": lambda c: aten.gelu_backward(
        _ones(c), c.args[0], approximate=c.kwargs.get("approximate", "none")
    ),
    "relu": lambda c: (c.result > 0).to(c.result),
    "sigmoid": lambda c: aten.sigmoid_backward(_ones(c), c.result),
    "tanh": lambda c: aten.tanh_backward(_ones(c), c.result),
    "exp": lambda c: c.result.clone(),
    "log": lambda c: c.args[0].reciprocal(),
    "sqrt": lambda c: 0.5 / c.result,
    "rsqrt": lambda c: -0.5 * c.result / c.args[0],
    "reciprocal": lambda c: -c.result.square(),
    "sin": lambda c: c.args[0].cos(),
    "cos": lambda c: -c.args[0].sin(),
    "square": lambda c: 2 * c.args[0],
}
for _name, _slope in _SLOPES.items():
    rule(_name)(entrywise(_slope))


@rule("pow")
def _power(call: Call) -> Linear | None:
    base, exponent = call.args
    if isinstance(exponent, torch.Tensor) or not isinstance(base, torch.Tensor):
        return None
    if not _one_kind(call) or exponent == 0:
        return None
    slope = 2 * base if exponent == 2 else exponent * base.pow(exponent - 1)
    return Scaled(slope, base.shape, base.shape)


class _Softmax(Single):
    """The derivative of a softmax with probabilities p: p (t - sum p t), which is symmetric.

    Args:
        p: the probabilities.
        dim: the dimension that they add up to 1 along, from behind.
    """

    def __init__(self, p: torch.Tensor, dim: int) -> None:
        self.p, self.dim = p, dim

    def push_one(self, tangent: torch.Tensor) -> torch.Tensor:
        """`[k, *shape]` to the same."""
        weighted = self.p * tangent
        total = weighted.sum(self.dim, keepdim=True)
        return torch.addcmul(weighted, self.p, total, value=-1)

    def pull_one(self, cotangent: torch.Tensor) -> torch.Tensor:
        """`[k, *shape]` to the same."""
        return self.push_one(cotangent)


@rule("_softmax", "_safe_softmax")
def _softmax(call: Call) -> Linear | None:
    if not _one_kind(call):
        return None
    p = call.result
    return _Softmax(p, call.args[1] % p.dim() - p.dim())
