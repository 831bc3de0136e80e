"""Directions with fresh random numbers, for the tests of this folder."""

import torch

from pullback import Direction

SHAPES = {"x": (1, 16, 16), "h": (96, 4, 4), "prompt": (5, 32)}
PROVENANCE = {"model": "digits", "fingerprint": "00ff", "how": "drawn", "seed": 3}


def drawn(space="x", **given):
    """A random direction of a space of the digit model; given fields take the place of its own."""
    fields = {
        "vector": 3 * torch.randn(SHAPES[space]),
        "tap": "mid_block" if space == "h" else None,
        "t": 500,
        "window": (800, 300),
        "unit": 2.5,
        "name": "smile",
        "provenance": PROVENANCE,
    }
    return Direction.of(space=space, **{**fields, **given})


def same(first, second):
    """Whether two directions agree in every field, the vector bit for bit."""
    names = ("space", "tap", "pool", "t", "window", "unit", "name", "provenance")
    return (
        first.vector.dtype == second.vector.dtype
        and torch.equal(first.vector, second.vector)
        and all(getattr(first, name) == getattr(second, name) for name in names)
    )
