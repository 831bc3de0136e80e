"""torch's forward mode, by one thread at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch

_TURNS = threading.RLock()


def jvp(
    f: Callable[..., Any], primals: tuple[torch.Tensor, ...], tangents: tuple[torch.Tensor, ...]
) -> tuple[Any, Any]:
    """`torch.func.jvp`: f's value and its tangent.

    torch counts for the whole process how deep calls of it are nested. Of two threads that are
    inside at one time the first to leave would take the other's level with it, whose call then
    fails. So they take turns, here alone: products of a recording need no forward mode of torch.

    Args:
        f: the function.
        primals: its arguments, of any shapes `[...]`.
        tangents: their tangents, of the same shapes `[...]`.
    """
    with _TURNS:
        value, tangent = torch.func.jvp(f, primals, tangents)[:2]
    return value, tangent
