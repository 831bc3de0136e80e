"""Distances between all pairs of many subspaces."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

import pullback_ext
from pullback._memory import free_bytes
from pullback._numbers import whole
from pullback.geometry.grassmann.angles import angles_of, check_kind, distance_of
from pullback.geometry.grassmann.frames import check_rows, frame, quick_frames

#: Pairs with an angle below this many radians, or so close to π/2, are taken again by sines in
#: float64: there products of that dtype tell angles to 4e-6 and 1e-10 only.
_NEAR = {torch.float32: 0.05, torch.float64: 1e-5}

#: Rows of a tile: of 160 to 250 the kernel is fastest.
_TILE_ROWS = 240
#: Bytes of products at one time, where there is room: more is no faster.
_PRODUCTS = 2**26


@dataclass(frozen=True, eq=False)
class Pairs:
    """Distances and principal angles between all pairs of S subspaces.

    Attributes:
        distance: `[S, S]`, float64, symmetric, 0 on the diagonal.
        angles: `[S, S, k]` in radians, ascending, float64; None where they were not asked for.
        kind: which distance it is.
        exact: how many pairs were taken again by sines in float64.
    """

    distance: torch.Tensor
    angles: torch.Tensor | None
    kind: str
    exact: int

    def mean(self) -> float:
        """The mean distance between two different subspaces.

        Raises:
            ValueError: there is one only.
        """
        count = len(self.distance)
        if count < 2:
            raise ValueError("Expected two or more subspaces for a mean distance, got one.")
        return float(self.distance.sum() / (count * (count - 1)))


def all_pairs(
    frames: torch.Tensor,
    kind: str = "geodesic",
    *,
    angles: bool = False,
    memory: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Pairs:
    """The distances between all pairs of subspaces of one dimension.

    The subspaces' frames are multiplied tile by tile, in the dtype that they come in, each pair
    once (`pullback_ext.gram`); angles come from the eigenvalues of the k × k products in float64
    (`pullback_ext.squared_singular_values`), those close to 0 or π/2 from float64 frames again.

    Args:
        frames: rows that span S subspaces, `[S, k, N]`; half precision is taken as float32.
        kind: as for `distance`.
        angles: whether to return the angles, too: 8 S² k bytes.
        memory: bytes for products at one time; by default 64 MiB, or a quarter of what is free.
        progress: called after each block with the pairs that are done and all of them.

    Returns:
        A `Pairs`. Angles are off by at most 1e-5 rad for float32 and 1e-9 rad for float64, and
        those below 0.05 rad (1e-5 in float64) by no more than `principal_angles` are.

    Raises:
        TypeError, ValueError: as `principal_angles`; or there are no subspaces.
        MemoryError: not even the products of two subspaces fit.

    Cost: S (S + 1) k² N multiply-adds and S (S − 1) / 2 eigenvalue problems of order k; one copy of
    the frames.
    """
    check_kind(kind)
    check_rows("frames", frames)
    if frames.dim() != 3 or not len(frames):
        raise ValueError(f"Expected frames [S, k, N] of at least one, got {list(frames.shape)}.")
    count, k, _ = frames.shape
    work = torch.float64 if frames.dtype == torch.float64 else torch.float32
    across = _across(count, k, memory, frames.device)
    frames_of = frame if work == torch.float64 else quick_frames
    rows = torch.cat([frames_of(part) for part in frames.split(_at_once(frames))])
    found = torch.zeros(count, count, dtype=torch.float64, device=frames.device)
    kept = found.new_zeros(count, count, k) if angles else None
    done, exact, total = 0, 0, count * (count - 1) // 2
    for top, left, products in blocks(rows, across):
        for place in range(products.shape[2] // k):
            first = top + place
            begin = max(first + 1, left)
            part = products[begin - left :, :, place * k : (place + 1) * k]
            if not len(part):
                continue
            squares = pullback_ext.squared_singular_values(part)
            theta, again = _angles(squares, work)
            if len(again):
                exact += len(again)
                theta[again] = angles_of(frame(frames[first]), frame(frames[begin + again]))
            to = slice(begin, begin + len(theta))
            value = distance_of(theta, kind)
            found[first, to], found[to, first] = value, value
            if kept is not None:
                kept[first, to], kept[to, first] = theta, theta
            done += len(theta)
        if progress is not None:
            progress(done, total)
    return Pairs(found, kept, kind, exact)


def blocks(rows: torch.Tensor, across: int) -> Iterator[tuple[int, int, torch.Tensor]]:
    """The products of frames `[S, k, N]`, tile by tile, on and above the diagonal.

    `pullback_ext.gram` takes tiles one to a thread: faster on the CPU than `torch.matmul` of the
    same blocks where rows are long, and ten times as accurate for float32
    (`python -m benchmarks pairs`).

    Args:
        rows: the frames.
        across: how many frames at most one tile is multiplied with at one time.

    Yields:
        The first frame of a tile and the first of those that it is multiplied with, and the
        products of these with it, float64 `[b, k, a k]`.
    """
    count, k, n = rows.shape
    side = max(1, min(_TILE_ROWS // k, across))
    many = across // side * side
    for top in range(0, count, side):
        tile = rows[top : top + side].flatten(0, 1)[None]
        yield top, top, pullback_ext.gram(tile).unflatten(1, (-1, k))[0]
        after = top + side
        while after < count:
            # Whole tiles together, and what is left of one by itself.
            whole_ones = min(many, (count - after) // side * side)
            others = rows[after : after + (whole_ones or side)]
            tiles = others.reshape(-1, (side if whole_ones else len(others)) * k, n)
            products = pullback_ext.gram(tiles, tile.expand(len(tiles), -1, -1))
            yield top, after, products.flatten(0, 1).unflatten(0, (-1, k))
            after += len(others)


def _angles(squares: torch.Tensor, work: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Angles `[P, k]` from squared cosines, descending, and which pairs are to be taken again."""
    near = _NEAR[work]
    theta = torch.acos(squares.clamp(0, 1).sqrt())
    again = theta[:, 0] < near
    if work == torch.float64:  # in float32 the products themselves know no more
        again = again | (squares[:, -1] < near**2)
    return theta, torch.nonzero(again).flatten()


def _at_once(frames: torch.Tensor) -> int:
    """Subspaces whose float64 frames are made at one time: 64 MiB of them."""
    return max(1, 2**26 // (8 * frames.shape[1] * frames.shape[2]))


def _across(count: int, k: int, memory: int | None, device: torch.device) -> int:
    """Subspaces that one tile is multiplied with at one time."""
    if memory is None:
        free, memory = free_bytes(device), _PRODUCTS
        if free is not None:
            memory = max(1, min(free // 4, memory))
    memory = whole("memory", memory, 1)
    pairs = memory // (8 * k * k)
    if pairs < 1:
        raise MemoryError(
            f"The products of two subspaces of {k} rows take {8 * k * k} bytes, and {memory} are "
            "allowed. Expected more memory=."
        )
    side = max(1, _TILE_ROWS // k)
    return min(count, pairs // side if pairs >= side * side else int(pairs**0.5))
