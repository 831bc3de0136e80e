"""Entries on the disk: one direction, or several that are applied together, in one file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from pullback.directions import comparing, stored
from pullback.directions.direction import Direction

#: What the directions of one file share.
_SHARED = ("space", "tap", "pool")


def save(entry: Direction | Sequence[Direction], path: str | os.PathLike[str]) -> None:
    """Write one edit to a safetensors file, such as `PrincipalComponents.entry` gives it.

    One direction alone is written as `Direction.save` writes it. Of several, the vectors are one
    tensor, and all other fields of each stand in the header. The file appears complete or not at
    all.

    Args:
        entry: a direction, or several that `pullback.edit` applies together, in one space, at one
            tap, pooled alike, of one shape and dtype. Their windows may overlap.
        path: the file, whose folder is made where it is missing.

    Raises:
        TypeError: one of them is no direction.
        ValueError: there is none, or they do not lie in one place.
        OSError: the file cannot be written, or something else stands there, such as a device.
    """
    parts = [entry] if isinstance(entry, Direction) else comparing.checked(list(entry))
    _check_together(parts)
    if len(parts) == 1:
        parts[0].save(path)
    else:
        stored.write_entry(Path(path), [vars(one) for one in parts])


def load(path: str | os.PathLike[str]) -> tuple[Direction, ...]:
    """Read one edit that `save` or `Direction.save` wrote, onto the CPU. Every field is checked.

    Returns:
        One direction or several, in the order in which they were given; `pullback.edit` takes them
        together.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is damaged or holds no directions; it says what is wrong. Pickles are
            never read.
    """
    path = Path(path)
    rows = stored.read_entry(path)
    try:
        parts = [Direction(**fields) for fields in rows]
        _check_together(parts)
    except (TypeError, ValueError) as error:
        raise stored.damaged(path, f"{error}") from None
    return tuple(parts)


def _check_together(parts: Sequence[Direction]) -> None:
    """Raise ValueError unless directions lie in one place."""
    first = parts[0]
    for place, one in enumerate(parts[1:], 1):
        pairs = {name: (getattr(first, name), getattr(one, name)) for name in _SHARED}
        pairs["shape"] = (list(first.vector.shape), list(one.vector.shape))
        pairs["dtype"] = (first.vector.dtype, one.vector.dtype)
        for name, (ours, theirs) in pairs.items():
            if ours != theirs:
                raise ValueError(
                    f"Expected directions of one {name} in one file, got {ours!r} of "
                    f"{comparing.label(first, 0)} and {theirs!r} of {comparing.label(one, place)}. "
                    "Save them in files of their own."
                )
