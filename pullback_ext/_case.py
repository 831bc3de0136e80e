"""What a kernel is checked with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Case:
    """One call of an operator, and how far its result may be from the plain-torch twin's."""

    name: str
    args: tuple[Any, ...]
    error: Callable[[Any, Any], float]  # of the results of the kernel and of the twin
    bound: float
