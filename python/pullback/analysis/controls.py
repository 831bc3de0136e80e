"""What takes the place of directions and of labels, to see what chance alone does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, overload

import torch

from pullback._numbers import seed_of
from pullback.directions import Direction
from pullback.editing import Entry


@overload
def random_like(entry: Direction, seed: int) -> Direction: ...
@overload
def random_like(entry: Sequence[Direction], seed: int) -> tuple[Direction, ...]: ...
def random_like(entry: Entry, seed: int) -> Entry:
    """Noise in the place of a direction: of the same space, shape, unit and timesteps.

    Of an edit of several directions, such as one for each step, the noise at one place is as alike
    over time as the directions are: all their inner products stay.

    Args:
        entry: a direction, or several that are applied together.
        seed: of the noise.

    Returns:
        The same with other vectors, and `how` "random" in the provenance.

    Raises:
        TypeError: it is no direction.
        ValueError: the seed is none.

    Cost: one QR factorisation of the vectors at a place.
    """
    seed = seed_of(seed)
    parts = [entry] if isinstance(entry, Direction) else list(entry)
    for part in parts:
        if not isinstance(part, Direction):
            raise TypeError(f"Expected a direction, or several, got {type(part).__name__}.")
    generator = torch.Generator("cpu").manual_seed(seed)
    rows: dict[int, torch.Tensor] = {}
    for place in dict.fromkeys(map(_place_of, parts)):
        at = [number for number, part in enumerate(parts) if _place_of(part) == place]
        vectors = torch.stack([parts[number].vector.flatten().double().cpu() for number in at])
        rows.update(zip(at, _rotated(vectors, generator), strict=True))
    found = tuple(_with(part, rows[number], seed) for number, part in enumerate(parts))
    return found[0] if isinstance(entry, Direction) else found


def _place_of(part: Direction) -> tuple[Any, ...]:
    return part.space, part.tap, part.pool, tuple(part.vector.shape)


def _rotated(vectors: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Vectors `[T, n]` in another, random orientation, with the same inner products."""
    triangle = torch.linalg.qr(vectors.T).R
    size = (vectors.shape[1], len(triangle))
    noise = torch.randn(size, generator=generator, dtype=torch.float64, device="cpu")
    frame, signs = torch.linalg.qr(noise)
    # Householder's Q by itself leans to one side of every axis.
    return (frame * signs.diagonal().sign() @ triangle).T


def _with(part: Direction, row: torch.Tensor, seed: int) -> Direction:
    vector = (row / row.norm()).reshape(part.vector.shape).to(part.vector)
    # Half precision rounds a norm of 1 further than the check of directions allows.
    vector = vector / vector.double().norm().to(vector)
    known = {"how": "random", "in_place_of": part.name, "seed": seed}
    return replace(part, vector=vector, name="random", provenance=known)


def shuffled(labels: torch.Tensor | Sequence[float], seed: int) -> torch.Tensor:
    """Labels or scores in another order, so that they say nothing of the samples.

    Args:
        labels: `[N]`, or `[N, K]` of K attributes, whose rows stay together.
        seed: of the order.

    Returns:
        The same values in a random order, `[N]` or `[N, K]`.

    Raises:
        ValueError: the seed is none.
    """
    # `as_tensor` would take tensors to the default device.
    values = labels if isinstance(labels, torch.Tensor) else torch.tensor(labels, device="cpu")
    generator = torch.Generator("cpu").manual_seed(seed_of(seed))
    order = torch.randperm(len(values), generator=generator, device="cpu")
    return values[order.to(values.device)]
