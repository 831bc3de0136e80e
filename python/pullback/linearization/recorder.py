"""Watches the operations of one evaluation of f, and derives a linear map from each."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pullback.linearization import (  # noqa: F401 - they register their rules
    arithmetic,
    attention,
    contractions,
    normalization,
    views,
)  # fmt: skip
from pullback.linearization.generic import Generic, differentiable
from pullback.linearization.linear import IDENTITY, RULES, Call, Linear, UnrecordableError
from pullback.linearization.views import Write


@dataclass(frozen=True)
class Step:
    """One linear map of a recording.

    Attributes:
        linear: the map.
        inputs: numbers of the variables that it takes.
        outputs: numbers of those that it gives; None for an output that has no derivative.
        name: of the operation that it is the derivative of, such as "aten::mul".
    """

    linear: Linear
    inputs: tuple[int, ...]
    outputs: tuple[int | None, ...]
    name: str


@dataclass(frozen=True)
class _Mark:
    """What the recorder knows of a tensor, tied to the tensor itself.

    Attributes:
        owner: of the recording that it belongs to; not the recording itself, which a tensor that f
            keeps would keep as well.
        variable: its number where it depends on x.
        writes: how often its storage had been written to.
    """

    owner: object
    variable: int | None
    writes: int


#: The attribute of a tensor in which its mark stands.
_MARK = "_pullback_mark"

#: Stands for an output that depends on x in a way that no rule tells.
_UNKNOWN = -1

#: Operators whose result is a constant, as for torch's own derivatives.
_CONSTANT = {
    f"aten::{name}"
    for name in (
        "detach", "detach_", "zero", "zeros_like", "ones_like", "empty_like", "full_like",
        "new_zeros", "new_ones", "new_empty", "new_full", "round", "floor", "ceil", "sign",
    )
}  # fmt: skip


class Recorder(TorchDispatchMode):
    """Records the operations that depend on x, in their order.

    It works below autograd, where composite functions are taken apart and results are plain.
    Operations in place are taken as out of place, where no other tensor can tell the difference.

    Attributes:
        steps: the maps.
        outside: the tensors that were there before, such as parameters.
    """

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[Step] = []
        self.outside: dict[int, torch.Tensor] = {}
        self._owner = object()
        self._variables = 0
        self._kept: set[int] = set()
        self._seen: set[Any] = set()
        # Storages that were written to, alive so that none takes the place of another.
        self._written: dict[int, tuple[torch.UntypedStorage, int]] = {}

    def begin(self, x: torch.Tensor) -> int:
        """Make x the variable that the recording is about."""
        return self._name(x)

    def variable(self, tensor: torch.Tensor) -> int | None:
        """The number of the variable that a tensor is; None where it does not depend on x."""
        mark = self._mark_of(tensor)
        if self._written:
            known = self._written.get(_storage(tensor))
            if known is not None and (-1 if mark is None else mark.writes) < known[1]:
                raise UnrecordableError(
                    "f changes a tensor in place and goes on with another view of it"
                )
        if mark is None:
            return None
        if mark.variable == _UNKNOWN:
            raise UnrecordableError("f uses statistics that no rule tells the derivative of")
        return mark.variable

    def _mark_of(self, tensor: torch.Tensor) -> _Mark | None:
        mark: _Mark | None = getattr(tensor, _MARK, None)
        return None if mark is None or mark.owner is not self._owner else mark

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        schema = func._schema
        places = self._places(args, kwargs)
        if schema.is_mutable:
            return self._in_place(func, args, kwargs, places)
        if schema.name.startswith("pullback::"):  # below autograd, which sees nothing before it
            for value in args:
                if isinstance(value, torch.Tensor):
                    self.check_own(value)
        result = func(*args, **kwargs)
        self._record(func, args, kwargs, result, places)
        return result

    def check_own(self, result: torch.Tensor) -> None:
        """Raise where a function with rules of its own leads to a tensor.

        Its rules are what torch's derivatives go by, whatever its forward pass computes.
        """
        waiting = [result.grad_fn]
        while waiting:
            node = waiting.pop()
            if node is None or node in self._seen:
                continue
            self._seen.add(node)
            foreign = isinstance(node, torch.autograd.function.BackwardCFunction)
            if foreign or not _OWN.search(node.name()):
                raise UnrecordableError(f"f holds a function with rules of its own, {node.name()}")
            waiting += [other for other, _ in node.next_functions]

    def _places(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[tuple[int, int], int], ...]:
        """Where the tensors stand that depend on x, and which variables they are."""
        found = []
        for position, value in enumerate(args):
            for place, one in enumerate(value if isinstance(value, (list, tuple)) else (value,)):
                if isinstance(one, torch.Tensor):
                    number = self._met(one)
                    if number is not None:
                        found.append(((position, place), number))
        for name, value in kwargs.items():
            for one in tree_leaves(value):
                if isinstance(one, torch.Tensor) and self._met(one) is not None:
                    raise UnrecordableError(f"an argument by name, {name}, depends on x")
        return tuple(found)

    def _met(self, tensor: torch.Tensor) -> int | None:
        """The variable that a tensor is; one never seen before comes from outside."""
        if self._mark_of(tensor) is None:
            self.outside.setdefault(id(tensor), tensor)
        return self.variable(tensor)

    def _record(
        self,
        func: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        result: Any,
        places: tuple[tuple[tuple[int, int], int], ...],
    ) -> None:
        outputs = result if isinstance(result, (tuple, list)) else (result,)
        name = func._schema.name
        smooth = [differentiable(one) for one in outputs]
        if name == "aten::fill" and all(position == 0 for (position, _), _ in places):
            places = ()  # what was there before is gone
        if not places or not any(smooth) or name in _CONSTANT or not torch.is_grad_enabled():
            for one in outputs:
                if isinstance(one, torch.Tensor):
                    self._mark(one, None)
            return
        call = Call(func, args, kwargs, result, tuple(place for place, _ in places))
        derive = RULES.get(name)
        linear = derive(call) if derive is not None else None
        if linear is None:
            linear = Generic(call)
        if linear is IDENTITY:
            self._mark(result, places[0][1])
            return
        self._kept.update(_storage(tensor) for tensor in linear.kept())
        numbers: list[int | None] = []
        for one, has in zip(outputs, smooth, strict=True):
            if numbers and linear.only_first:
                if isinstance(one, torch.Tensor):
                    self._mark(one, _UNKNOWN if has else None)
            elif has:
                numbers.append(self._name(one))
            else:
                numbers.append(None)
                if isinstance(one, torch.Tensor):
                    self._mark(one, None)
        inputs = tuple(number for _, number in places)
        self.steps.append(Step(linear, inputs, tuple(numbers), name))

    def _in_place(
        self,
        func: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        places: tuple[tuple[tuple[int, int], int], ...],
    ) -> Any:
        """An operation that changes its first argument: the same out of place, then a copy."""
        target = args[0] if args and isinstance(args[0], torch.Tensor) else None
        written = [argument.name for argument in func._schema.arguments if _is_written(argument)]
        if target is None or written != [func._schema.arguments[0].name]:
            if places:
                raise UnrecordableError(f"{func} writes to several tensors, or to one by name")
            return func(*args, **kwargs)
        storage = target.untyped_storage()
        if storage._cdata in self._kept:
            raise UnrecordableError(f"{func} changes a tensor that its derivative needs")
        if not places:
            result = func(*args, **kwargs)
            self._mark(target, None)
            return result
        plain = _out_of_place(func)
        if plain is None:
            raise UnrecordableError(f"{func} has no form that leaves its argument as it is")
        base = _whole(target)
        if base is None:
            raise UnrecordableError(f"{func} writes to a part of a tensor that is not contiguous")
        before = self.variable(base)  # first: another write makes it stale
        if func._schema.name == "aten::copy_":
            args, kwargs = self._copied(target, args[1])
            places = tuple(((0, 0), number) for (position, _), number in places if position == 1)
        else:
            args = (target.clone(), *args[1:])  # as it was, for a rule that keeps it
        value = plain(*args, **kwargs)
        self._record(plain, args, kwargs, value, places)
        mark = self._mark_of(value)
        assert mark is not None
        if storage._cdata in self._kept:
            raise UnrecordableError(f"{func} changes a tensor that its derivative needs")
        if base is not target:
            self._write(base, before, target, mark.variable)
        target.copy_(value)
        writes = self._written.get(storage._cdata, (storage, 0))[1] + 1
        self._written[storage._cdata] = (storage, writes)
        setattr(target, _MARK, _Mark(self._owner, mark.variable, writes))
        if base is not target:
            after = self._mark_of(base)
            assert after is not None
            setattr(base, _MARK, _Mark(self._owner, after.variable, writes))
        return target

    def _write(
        self, base: torch.Tensor, before: int | None, part: torch.Tensor, value: int | None
    ) -> None:
        """Record that a part of a tensor gets another value."""
        numbers = (before, value)
        if before is None and value is None:
            self._mark(base, None)
            return
        linear = Write(base, part, tuple(number is not None for number in numbers))
        inputs = tuple(number for number in numbers if number is not None)
        self.steps.append(Step(linear, inputs, (self._name(base),), "aten::copy"))

    def _copied(self, target: torch.Tensor, source: torch.Tensor) -> Any:
        """The arguments of the expansion that a copy into all of a tensor is."""
        if source.dtype != target.dtype or source.device != target.device:
            raise UnrecordableError("f copies into a tensor of another dtype or device")
        return (source, list(target.shape)), {}

    def _name(self, tensor: torch.Tensor) -> int:
        """Make a tensor a new variable."""
        self._variables += 1
        self._mark(tensor, self._variables)
        return self._variables

    def _mark(self, tensor: torch.Tensor, variable: int | None) -> None:
        writes = 0
        if self._written:
            writes = self._written.get(_storage(tensor), (None, 0))[1]
        setattr(tensor, _MARK, _Mark(self._owner, variable, writes))


#: Nodes of an autograd graph that are torch's own; any other has rules that somebody wrote.
_OWN = re.compile(r"(Backward\d*|CopySlices|AccumulateGrad|CopyBackwards)$")


def _storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _whole(tensor: torch.Tensor) -> torch.Tensor | None:
    """What covers the storage of a tensor: itself, or the contiguous tensor it is a view of."""
    for one in (tensor, tensor._base):
        if one is not None and one.numel() * one.element_size() == one.untyped_storage().nbytes():
            return one if one is tensor or one.is_contiguous() else None
    return None


def _is_written(argument: Any) -> bool:
    return argument.alias_info is not None and argument.alias_info.is_write


def _out_of_place(func: Any) -> Any:
    """The operator that computes the same and changes nothing; None where there is none."""
    name = func._schema.name.removeprefix("aten::")
    if not name.endswith("_") or torch.Tag.inplace_view in func.tags:
        return None
    if name == "copy_":
        return torch.ops.aten.expand.default
    packet = getattr(torch.ops.aten, name[:-1], None)
    return getattr(packet, func._overloadname, None) if packet is not None else None
