"""How much arithmetic and how many bytes the operators of a computation take, and its products."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from pullback import _ranges
from pullback.profiling import kinds
from pullback.profiling.attribution import Place


@dataclass
class Amount:
    """Of work.

    Attributes:
        flops: floating-point operations of convolutions and products of matrices.
        bytes: that operators read and write, as if nothing stayed in a cache between two of them.
    """

    flops: float = 0.0
    bytes: float = 0.0


class Counting(TorchDispatchMode):
    """Counts by kind of work while recorded maps have their ranges (`_ranges.naming_steps`).

    Attributes:
        amounts: by kind of work.
        products: single-sample products by stage, `_ranges.PUSH` and `_ranges.PULL`.
        blocks: how often a product had so many samples and columns.
    """

    def __init__(self) -> None:
        super().__init__()
        self.amounts = {kind: Amount() for kind in kinds.KINDS}
        self.products: Counter[str] = Counter()
        self.blocks: Counter[tuple[int, int]] = Counter()
        self._places = [Place()]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func._schema.name
        if name == "profiler::_record_function_enter_new":
            self._enter(*args)
        elif name == "profiler::_record_function_exit":
            self._places.pop()
        elif not name.startswith("profiler::"):
            kind = self._places[-1].within(name).kind
            assert kind is not None
            amount = self.amounts[kind]
            amount.flops += _flops(func, args, kwargs or {}, result)
            if not func.is_view:
                amount.bytes += sum(map(_bytes, tree_leaves((args, kwargs, result))))
        return result

    def _enter(self, name: str, told: str | None = None) -> None:
        place = self._places[-1].within(name)
        stage = name.removeprefix(_ranges.PREFIX)
        if told and place.stage == stage:  # not one of the checks
            samples, columns = map(int, told.split("x"))
            self.products[stage] += samples * columns
            self.blocks[samples, columns] += 1
        self._places.append(place)


def _bytes(value: object) -> int:
    if not isinstance(value, torch.Tensor) or value.layout != torch.strided:
        return 0
    # What is expanded lies in memory once.
    return min(value.numel() * value.element_size(), value.untyped_storage().nbytes())


def _flops(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> float:
    own = _NATIVE.get(func._schema.name)
    if own is not None:
        return own(*args, **kwargs)
    formula = flop_registry.get(func._overloadpacket)
    return 0.0 if formula is None else float(formula(*args, **kwargs, out_val=result))


def _attention(q: torch.Tensor, k: torch.Tensor, *_: Any, **__: Any) -> float:
    """Two products of matrices: q kᵀ and the probabilities times v."""
    return 4.0 * math.prod(q.shape[:-1]) * k.shape[-2] * q.shape[-1]


def _attention_tangents(q: torch.Tensor, k: torch.Tensor, *rest: Any, **_: Any) -> float:
    """The scores once, and for each column as much again as the function twice."""
    column = next(one for one in rest[3:] if isinstance(one, torch.Tensor))  # behind v, o and lse
    return _attention(q, k) * (0.5 + 2 * column.shape[0])


#: Operations of native operators, of which torch knows no formula.
_NATIVE: dict[str, Callable[..., float]] = {
    "pullback::attention": _attention,
    "pullback::attention_tangents": _attention_tangents,
    "pullback::attention_cotangents": _attention_tangents,
}
