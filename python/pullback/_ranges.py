"""Named ranges of a computation, for profilers: torch's own, and NVTX on a GPU through it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

#: What every name begins with, so that it is told from what others name.
PREFIX = "pullback."

#: The stages of a computation of bases, innermost first where they stand inside one another.
PRIMAL, PUSH, PULL, CHECKS, SOLVER = "primal", "push", "pull", "checks", "solver"

#: What the name of a recorded map begins with, before that of the operation it came from.
STEP = f"{PREFIX}step "

_steps_named: ContextVar[bool] = ContextVar("steps_named", default=False)


def stage(name: str, told: str | None = None) -> AbstractContextManager[Any]:
    """A range around a stage; some microseconds where nobody profiles.

    Args:
        name: one of the stages above.
        told: more about it, such as the size of a block, which those that count operators read.
    """
    return _range(PREFIX + name, told)


def step(name: str) -> AbstractContextManager[Any]:
    """A range around one recorded map, named after the operation that it is the derivative of."""
    return _range(STEP + name)


def steps_named() -> bool:
    """Whether each recorded map gets a range of its own."""
    return _steps_named.get()


@contextmanager
def naming_steps() -> Iterator[None]:
    """Context in which each recorded map gets a range: too many of them to have always."""
    token = _steps_named.set(True)
    try:
        yield
    finally:
        _steps_named.reset(token)


def _range(name: str, told: str | None = None) -> torch.autograd.profiler.record_function:
    from torch.autograd.profiler import record_function  # takes long to import

    return record_function(name, told)
