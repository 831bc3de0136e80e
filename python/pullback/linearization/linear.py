"""What every recorded step is: a linear map between tangents, and its transpose."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

#: A tangent or cotangent `[k, *shape]` of one tensor; None is zero.
Tangent = torch.Tensor | None


class UnrecordableError(RuntimeError):
    """f does what a recording cannot follow; the message says what."""


class Linear(ABC):
    """The derivative of one operation where it was called.

    Tangents have the column in front: `[k, *shape]` for a tensor of that shape. What a map keeps of
    the point stands in its attributes.

    Attributes:
        only_first: whether the operation has further outputs, such as statistics, of which the map
            tells nothing.
    """

    only_first = False

    @abstractmethod
    def push(self, tangents: Sequence[Tangent]) -> Sequence[Tangent]:
        """Tangents of the outputs from those of the inputs that depend on x, not all of them 0."""

    @abstractmethod
    def pull(self, cotangents: Sequence[Tangent]) -> Sequence[Tangent]:
        """Cotangents of these inputs from those of the outputs, not all of them 0."""

    def kept(self) -> Iterator[torch.Tensor]:
        """The tensors that it keeps."""
        for value in vars(self).values():
            for one in value if isinstance(value, (tuple, list)) else (value,):
                if isinstance(one, torch.Tensor):
                    yield one


class Single(Linear):
    """A map of one tensor to one."""

    only_first = True

    @abstractmethod
    def push_one(self, tangent: torch.Tensor) -> torch.Tensor:
        """`[k, *shape of the input]` to `[k, *shape of the output]`."""

    @abstractmethod
    def pull_one(self, cotangent: torch.Tensor) -> torch.Tensor:
        """`[k, *shape of the output]` to `[k, *shape of the input]`."""

    def push(self, tangents: Sequence[Tangent]) -> Sequence[Tangent]:
        """See `push_one`."""
        (tangent,) = tangents
        assert tangent is not None
        return (self.push_one(tangent),)

    def pull(self, cotangents: Sequence[Tangent]) -> Sequence[Tangent]:
        """See `pull_one`."""
        (cotangent,) = cotangents
        assert cotangent is not None
        return (self.pull_one(cotangent),)


class Both(Single):
    """A map of one tensor to one, given by two functions.

    Args:
        push: the map.
        pull: its transpose.
        keeps: what the two hold of the point.
    """

    def __init__(
        self,
        push: Callable[[torch.Tensor], torch.Tensor],
        pull: Callable[[torch.Tensor], torch.Tensor],
        *keeps: torch.Tensor,
    ) -> None:
        self._push, self._pull, self._keeps = push, pull, keeps

    def push_one(self, tangent: torch.Tensor) -> torch.Tensor:
        """The map."""
        return self._push(tangent)

    def pull_one(self, cotangent: torch.Tensor) -> torch.Tensor:
        """Its transpose."""
        return self._pull(cotangent)


class Sum(Linear):
    """A_1 t_1 + A_2 t_2 + ..., for an operation of several inputs that depend on x.

    Args:
        terms: a map of one tensor to one for each of them.
    """

    def __init__(self, terms: Sequence[Single]) -> None:
        self.terms = tuple(terms)

    def push(self, tangents: Sequence[Tangent]) -> Sequence[Tangent]:
        """The sum of the terms whose tangent is not zero."""
        total: Tangent = None
        for term, tangent in zip(self.terms, tangents, strict=True):
            if tangent is not None:
                part = term.push_one(tangent)
                total = part if total is None else total + part
        return (total,)

    def pull(self, cotangents: Sequence[Tangent]) -> Sequence[Tangent]:
        """The transpose of each term."""
        (cotangent,) = cotangents
        assert cotangent is not None
        return tuple(term.pull_one(cotangent) for term in self.terms)

    def kept(self) -> Iterator[torch.Tensor]:
        """The tensors that the terms keep."""
        for term in self.terms:
            yield from term.kept()


#: The map of what changes no entry and no shape: its output is the same variable as its input.
IDENTITY = Both(lambda t: t, lambda u: u)


@dataclass(frozen=True)
class Call:
    """One call of a torch operator while f is recorded.

    Attributes:
        func: the operator's overload, never one that changes an argument.
        args: its arguments, complete with the defaults of those that follow the given ones.
        kwargs: its arguments by name.
        result: what it returned.
        places: where in `args` the tensors stand that depend on x: the position of an argument, and
            that in the list where the argument is one (0 otherwise).
    """

    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    result: Any
    places: tuple[tuple[int, int], ...]

    @property
    def only(self) -> int | None:
        """The position of the one argument that depends on x; None where there are several."""
        return self.places[0][0] if len(self.places) == 1 else None

    def depends(self, position: int) -> bool:
        """Whether the argument at a position depends on x."""
        return any(place == position for place, _ in self.places)

    def inputs(self) -> list[torch.Tensor]:
        """The tensors that depend on x."""
        found = []
        for position, place in self.places:
            value = self.args[position]
            found.append(value[place] if isinstance(value, (tuple, list)) else value)
        return found

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """An argument, whether it was given by position or by name."""
        if position < len(self.args):
            return self.args[position]
        return self.kwargs.get(name, default)


#: Derives a `Linear` from a call; None where it knows none, and the generic rule is taken.
Rule = Callable[[Call], Linear | None]

#: The rules, by the operator's name, such as "aten::mul".
RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Makes a function the rule of some operators, whichever their overload."""

    def register(function: Rule) -> Rule:
        for name in names:
            RULES[name if "::" in name else f"aten::{name}"] = function
        return function

    return register


def summed_to(tangent: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """`[k, *wide]` summed to `[k, *shape]`, where `shape` was broadcast to `wide`."""
    return tangent.sum_to_size(tangent.shape[0], *_padded(tangent, shape)).reshape(
        tangent.shape[0], *shape
    )


def aligned(tangent: torch.Tensor, dims: int) -> torch.Tensor:
    """`[k, *shape]` as `[k, 1, ..., *shape]`, ready to be broadcast with `dims` dimensions."""
    missing = dims + 1 - tangent.dim()
    if not missing:
        return tangent
    return tangent.reshape(tangent.shape[0], *[1] * missing, *tangent.shape[1:])


def _padded(tangent: torch.Tensor, shape: Sequence[int]) -> tuple[int, ...]:
    return (1,) * (tangent.dim() - 1 - len(shape)) + tuple(shape)
