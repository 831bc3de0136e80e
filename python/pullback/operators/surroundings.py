"""What a function computes with besides its arguments, and whether that is as it was."""

from __future__ import annotations

import functools
import operator
import types
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

import torch
from torch import nn

#: How far from f a module may stand: f's own variables, attributes of objects in them, and so on.
_DEPTH = 6
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_VERSION = operator.attrgetter("_version")
_TRAINING = operator.itemgetter("training")


class Surroundings:
    """The modules that f reaches, and tensors that it met, as they are now.

    Args:
        f: the function; modules are looked for in its variables, its defaults, the globals that it
            names, the object that it is a method of, and the attributes of all these.
        tensors: further tensors.
    """

    def __init__(self, f: object, tensors: Iterable[torch.Tensor] = ()) -> None:
        modules = [part for module in _modules(f) for part in module.modules()]
        self._attributes = [module.__dict__ for module in modules]
        # What they hold their tensors, their parts and their hooks in; other ones come and go in
        # these, which stay.
        self._held: list[dict[str, Any]] = [
            held
            for module in modules
            for held in (module._parameters, module._buffers, module._modules)
        ]
        self._hooks = [getattr(module, name) for module in modules for name in _HOOKS]
        parts = (value for held in self._held for value in held.values())
        met = [*tensors, *(value for value in parts if isinstance(value, torch.Tensor))]
        self._tensors = [tensor for tensor in met if not tensor.is_inference()]
        self._state = self._now()

    def unchanged(self) -> bool:
        """Whether no tensor was changed or replaced, no hook added, and no module set to train."""
        return self._now() == self._state

    def _now(self) -> tuple[list[Any], ...]:
        """Asked for before every product: nothing but counters and addresses."""
        return (
            list(map(_VERSION, self._tensors)),
            list(map(id, chain.from_iterable(map(dict.values, self._held)))),
            list(chain.from_iterable(self._hooks)),
            list(map(_TRAINING, self._attributes)),
            [held["forward"] for held in self._attributes if "forward" in held],
        )


def _modules(f: object) -> Iterator[nn.Module]:
    """The outermost modules that are reached from a function."""
    seen: set[int] = set()
    waiting = [(f, 0)]
    while waiting:
        value, depth = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, nn.Module):
            yield value
        elif depth < _DEPTH:
            waiting += [(part, depth + 1) for part in _parts(value)]


def _parts(value: Any) -> Iterable[object]:
    """What a value holds."""
    if isinstance(value, types.FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or () if not _is_empty(cell)]
        names = [value.__globals__.get(name) for name in value.__code__.co_names]
        known = [name for name in names if not isinstance(name, types.ModuleType)]
        return [*cells, *(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values(), *known]
    if isinstance(value, types.MethodType):
        return [value.__self__, value.__func__]
    if isinstance(value, functools.partial):
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, dict):
        return list(value.values())
    if isinstance(value, (list, tuple, set, frozenset)):
        return value
    if isinstance(value, (torch.Tensor, type, str, bytes, int, float)):
        return ()
    held = list(getattr(value, "__dict__", {}).values())
    for kind in type(value).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            held.append(getattr(value, name, None))
    call = type(value).__dict__.get("__call__")
    return held if call is None else [*held, call]


def _is_empty(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018 - asked for its error
    except ValueError:
        return True
    return False
