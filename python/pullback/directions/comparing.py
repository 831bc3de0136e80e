"""How alike directions are, and how much of them lies in a tangent space or in a span of others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch

# Directions stand above this file, which they use: they are reached by the front door.
import pullback
from pullback.directions import bases
from pullback.geometry import LocalBasis


@runtime_checkable
class Found(Protocol):
    """What a way to find directions gives, such as `AttentionDirections`."""

    def __len__(self) -> int: ...

    def direction(self, index: int) -> pullback.Direction:
        """One of the directions."""


#: Directions as lists hold them, or as they were found.
Several = Found | Sequence["pullback.Direction"]


@dataclass(frozen=True, eq=False)
class Comparison:
    """Cosines between directions: made by `compare`.

    Attributes:
        names: of the D directions.
        cosines: `[D, D]`, float64, -1 to 1; the signs of directions count.
        size: entries of each vector, which say how alike random ones are.
    """

    names: tuple[str, ...]
    cosines: torch.Tensor
    size: int

    def __str__(self) -> str:
        width = max(max(map(len, self.names)), 4)
        rows = [
            f"{name:{width}} " + " ".join(f"{value:6.3f}" for value in row)
            for name, row in zip(self.names, self.cosines.tolist(), strict=True)
        ]
        return "\n".join(rows)


def compare(directions: Several) -> Comparison:
    """The cosines between all pairs of directions of one space.

    Where some are of a whole feature, pooled ones are repeated at every place first, and made of
    norm 1 again.

    Args:
        directions: D of them, in one space, at one tap and of one model; pooled ones of one size,
            and others of one shape.

    Returns:
        The comparison, on the CPU.

    Raises:
        TypeError: one of them is no direction.
        ValueError: there is none, or they differ in space, tap, shape or weights.
    """
    found = checked(directions)
    whole = [one for one in found if one.pool is None]
    first = (whole or found)[0]
    check_alike(whole or found)
    for place, one in enumerate(found):
        _check_pairs(_pairs(first, one), label(first, 0), label(one, place))
    shape = tuple(first.vector.shape)
    rows = torch.stack([whole_feature(one, shape).flatten() for one in found])
    cosines = (rows @ rows.mT).clamp(-1, 1).fill_diagonal_(1)
    names = tuple(label(one, place) for place, one in enumerate(found))
    return Comparison(names, cosines, rows.shape[1])


def retained(directions: Several, onto: LocalBasis | Several) -> torch.Tensor:
    """How much of unit directions lies in a space: the norm of what is projected on it.

    It is the cosine of the angle to the space: 1 inside, 0 across. Pooled directions are repeated
    at every place of the space's vectors first, and made of norm 1 again.

    Args:
        directions: D of them, in one space, at one tap, of one shape and of one model.
        onto: a local basis, whose rows in the directions' space (u in "h" of an encoder, v in the
            space of the map's variable) span a space for each of its B samples, up to its numerical
            rank; or directions, which span one.

    Returns:
        `[D, B]`, float64, 0 to 1, on the CPU; B is 1 for directions.

    Raises:
        TypeError: one of them is no direction.
        ValueError: there is none; they differ from one another, or from what they are projected
            on, in space, tap, shape or weights; or a basis holds NaN or Inf.

    Cost: B decompositions of k rows, and no products.
    """
    found = checked(directions)
    check_alike(found)
    frames = _of_basis(found[0], onto) if isinstance(onto, LocalBasis) else _of_span(found[0], onto)
    shape = tuple(frames[0].shape[1:])
    rows = torch.stack([whole_feature(one, shape).flatten() for one in found])
    columns = [(rows @ _orthonormal(frame.flatten(1))).norm(dim=1) for frame in frames]
    return torch.stack(columns, 1).clamp(max=1)


def checked(directions: Several) -> list[pullback.Direction]:
    """Directions as a list.

    Raises:
        TypeError: one of them is none.
        ValueError: there is none at all.
    """
    if isinstance(directions, (pullback.Direction, LocalBasis)):
        raise TypeError(
            f"Expected several directions, got one {type(directions).__name__}. Put directions "
            "into a list; basis.direction(i) takes one of a basis."
        )
    found = (
        [directions.direction(index) for index in range(len(directions))]
        if isinstance(directions, Found)
        else list(directions)
    )
    for one in found:
        if not isinstance(one, pullback.Direction):
            raise TypeError(
                f"Expected directions, got {type(one).__name__}. Direction.of makes one of a "
                "vector."
            )
    if not found:
        raise ValueError("Expected at least one direction, got none.")
    return found


def check_alike(directions: Sequence[pullback.Direction]) -> None:
    """Raise ValueError unless directions share their space, tap, pool, shape and weights."""
    first = directions[0]
    for place, one in enumerate(directions[1:], 1):
        pairs = {**_pairs(first, one), "pool": (first.pool, one.pool)}
        pairs["shape"] = (list(first.vector.shape), list(one.vector.shape))
        _check_pairs(pairs, label(first, 0), label(one, place))


def label(direction: pullback.Direction, place: int) -> str:
    """The name of a direction, or its place where it has none."""
    return direction.name or f"direction {place}"


def whole_feature(direction: pullback.Direction, shape: tuple[int, ...]) -> torch.Tensor:
    """The vector in another shape of its space, of norm 1, in float64 on the CPU.

    Args:
        direction: of that shape; or pooled, which is repeated at every place.
        shape: `[*shape]`.

    Raises:
        ValueError: the vector cannot be brought to it.
    """
    vector = direction.vector.detach().to("cpu", torch.float64)
    if tuple(vector.shape) != shape:
        # Channels come first in [C, H, W], and last in tokens [S, C].
        channels = {3: shape[0], 2: shape[-1]}.get(len(shape))
        if direction.pool is None or len(vector) != channels:
            raise ValueError(
                f"Expected a direction of shape {list(shape)}, or a pooled one of its channels, "
                f"got {list(vector.shape)} ({label(direction, 0)}). Find it at the same tap, with "
                "latents of the same size."
            )
        vector = (vector[:, None, None] if len(shape) == 3 else vector).expand(shape)
    return vector / vector.norm()


def _of_basis(direction: pullback.Direction, basis: LocalBasis) -> list[torch.Tensor]:
    """The rows of each sample in the direction's space, `[rank, *shape]`."""
    known = basis.provenance
    side, _ = bases.side_of(known, direction.space)
    pairs = {
        "tap": (direction.tap, known["tap"] if direction.space == "h" else None),
        "fingerprint": (direction.provenance.get("fingerprint"), known.get("fingerprint")),
    }
    _check_pairs(pairs, label(direction, 0), "the basis")
    rows = (basis.v if side == "v" else basis.u).detach().to("cpu", torch.float64)
    if not bool(torch.isfinite(rows).all()):
        raise ValueError(f"Expected finite numbers in {side} of the basis, got NaN or Inf.")
    return [rows[sample, :rank] for sample, rank in enumerate(basis.rank.tolist())]


def _of_span(direction: pullback.Direction, others: Several) -> list[torch.Tensor]:
    """The vectors of other directions, `[k, *shape]`, as the one span that they have."""
    found = checked(others)
    check_alike(found)
    _check_pairs(_pairs(direction, found[0]), label(direction, 0), label(found[0], 0))
    shape = tuple(found[0].vector.shape)
    return [torch.stack([whole_feature(one, shape) for one in found])]


def _pairs(
    first: pullback.Direction, second: pullback.Direction
) -> dict[str, tuple[object, object]]:
    """What two directions must share to lie in one space, by its name."""
    return {
        "space": (first.space, second.space),
        "tap": (first.tap, second.tap),
        "fingerprint": (
            first.provenance.get("fingerprint"),
            second.provenance.get("fingerprint"),
        ),
    }


def _check_pairs(pairs: dict[str, tuple[object, object]], first: str, second: str) -> None:
    for name, (ours, theirs) in pairs.items():
        unknown = name == "fingerprint" and None in (ours, theirs)
        if ours != theirs and not unknown:
            raise ValueError(
                f"Expected the same {name}, got {ours!r} of {first} and {theirs!r} of {second}. "
                "Compare what was found in one space of one model."
            )


def _orthonormal(rows: torch.Tensor) -> torch.Tensor:
    """An orthonormal basis of the span of rows `[k, n]`, as columns `[n, r]`."""
    if not len(rows):
        return rows.mT
    _, s, vh = torch.linalg.svd(rows, full_matrices=False)
    return vh[s > rows.shape[1] * torch.finfo(rows.dtype).eps * s[0]].mT
