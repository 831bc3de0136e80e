"""Principal angles between subspaces, and the distances that they make."""

from __future__ import annotations

import math

import torch

from pullback.geometry.grassmann.frames import check_pair, frame

#: Distances by name, in the terms of Ye and Lim 2016 (arXiv:1407.0900).
DISTANCES = ("geodesic", "chordal", "projection", "max", "procrustes", "fubini-study")


def principal_angles(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The principal angles between subspaces, accurate from 1e-8 to π/2.

    Small angles come from sines, the singular values of (1 − AᵀA)Bᵀ, the others from cosines, those
    of ABᵀ, as Björck and Golub (1973) do it.

    Args:
        a: rows that span subspaces, `[..., k, N]`, in any floating dtype.
        b: `[..., p, N]`; batches are broadcast.

    Returns:
        `[..., min(k, p)]` in radians, ascending, float64.

    Raises:
        TypeError, ValueError: as `frame`; or the subspaces are of different spaces.

    Cost: QR decompositions and singular values in float64, O((k + p)² N) a pair; for every pair of
    many subspaces see `all_pairs`.
    """
    check_pair(a, b)
    return angles_of(frame(a), frame(b))


def angles_of(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The principal angles of frames in float64, `[..., k, N]` and `[..., p, N]`."""
    if a.shape[-2] < b.shape[-2]:
        a, b = b, a
    products = b @ a.mT
    cosines = torch.linalg.svdvals(products)
    # Of the smaller space, so that there are as many sines as cosines; they ascend when flipped.
    sines = torch.linalg.svdvals(b - products @ a).flip(-1)
    small = torch.asin(sines.clamp(max=1))
    large = torch.acos(cosines.clamp(max=1))
    return torch.where(cosines.square() > 0.5, small, large)


def distance(a: torch.Tensor, b: torch.Tensor, kind: str = "geodesic") -> torch.Tensor:
    """A distance between subspaces of one dimension k.

    Args:
        a: rows `[..., k, N]`.
        b: rows `[..., k, N]`; batches are broadcast.
        kind: "geodesic" √Σθ², "chordal" √Σ sin²θ, "projection" max sin θ, "max" max θ,
            "procrustes" 2√Σ sin²(θ/2) or "fubini-study" arccos Π cos θ, of the principal angles θ.

    Returns:
        `[...]`, float64: 0 for equal subspaces; "geodesic" is at most √k π/2.

    Raises:
        TypeError, ValueError: as `principal_angles`; or there is no such distance, or the
            subspaces have different dimensions.

    Source: Ye and Lim 2016, arXiv:1407.0900.
    """
    check_kind(kind)
    check_pair(a, b, same_rank=True)
    return distance_of(principal_angles(a, b), kind)


def check_kind(kind: str) -> None:
    """Raise unless there is such a distance."""
    if kind not in DISTANCES:
        raise ValueError(f"Expected a distance of {', '.join(DISTANCES)}, got {kind!r}.")


def distance_of(angles: torch.Tensor, kind: str) -> torch.Tensor:
    """A distance `[...]` from principal angles `[..., k]` in radians."""
    if kind == "geodesic":
        return angles.norm(dim=-1)
    if kind == "chordal":
        return angles.sin().norm(dim=-1)
    if kind == "projection":
        return angles.sin().amax(-1)
    if kind == "max":
        return angles.amax(-1)
    if kind == "procrustes":
        return 2 * (angles / 2).sin().norm(dim=-1)
    # 1 − Π cos² in a form that keeps small angles: with c the product, the sine is √(1 − c²).
    log_of_squares = torch.log1p(-angles.sin().square().clamp(max=1)).sum(-1)
    sine = torch.expm1(log_of_squares).neg().clamp(0, 1).sqrt()
    cosine = (log_of_squares / 2).exp()
    return torch.atan2(sine, cosine).clamp(0, math.pi / 2)
