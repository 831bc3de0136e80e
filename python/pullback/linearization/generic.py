"""The rule of every operator that has none of its own: torch's, at the recorded inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils._pytree import tree_map

from pullback.linearization.forward import jvp
from pullback.linearization.linear import Call, Linear, Tangent


class Generic(Linear):
    """An operation by `vmap` over torch's own `jvp` and `vjp` of it alone.

    Args:
        call: the call.
    """

    def __init__(self, call: Call) -> None:
        self.func, self.kwargs, self.places = call.func, call.kwargs, call.places
        self.primals = tuple(call.inputs())
        self.args = tree_map(
            lambda value: value.detach() if isinstance(value, torch.Tensor) else value, call.args
        )
        results = call.result if isinstance(call.result, (tuple, list)) else (call.result,)
        self.smooth = [differentiable(one) for one in results]

    def _at(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The outputs that have a derivative."""
        args: list[Any] = [list(a) if isinstance(a, (list, tuple)) else a for a in self.args]
        for (position, place), value in zip(self.places, inputs, strict=True):
            if isinstance(args[position], list):
                args[position][place] = value
            else:
                args[position] = value
        found = self.func(*args, **self.kwargs)
        found = found if isinstance(found, (tuple, list)) else (found,)
        return tuple(one for one, smooth in zip(found, self.smooth, strict=True) if smooth)

    def push(self, tangents: Sequence[Tangent]) -> Sequence[Tangent]:
        """By `vmap(jvp)`."""
        columns = next(len(t) for t in tangents if t is not None)
        given = tuple(
            x.new_zeros(columns, *x.shape) if t is None else t
            for t, x in zip(tangents, self.primals, strict=True)
        )
        found = torch.func.vmap(lambda *t: jvp(self._at, self.primals, t)[1])(*given)
        rest = iter(found)
        return [next(rest) if smooth else None for smooth in self.smooth]

    def pull(self, cotangents: Sequence[Tangent]) -> Sequence[Tangent]:
        """By `vmap(vjp)`."""
        columns = next(len(u) for u in cotangents if u is not None)
        values, pull = torch.func.vjp(self._at, *self.primals)[:2]
        known = [u for u, smooth in zip(cotangents, self.smooth, strict=True) if smooth]
        given = tuple(
            value.new_zeros(columns, *value.shape) if u is None else u
            for u, value in zip(known, values, strict=True)
        )
        return torch.func.vmap(lambda *u: pull(u))(*given)


def differentiable(value: object) -> bool:
    """Whether something is a tensor that may have a derivative."""
    return isinstance(value, torch.Tensor) and (value.is_floating_point() or value.is_complex())
