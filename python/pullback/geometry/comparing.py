"""How far the tangent spaces of many samples are apart."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence

import torch

# Directions stand above this room: they are reached by the front door, when they are asked for.
import pullback
from pullback._numbers import whole
from pullback.geometry.alike import bases_of, check_alike, check_finite, check_ranks
from pullback.geometry.bases import LocalBasis
from pullback.geometry.grassmann import Pairs, all_pairs


def tangent_distances(
    bases: LocalBasis | Sequence[LocalBasis],
    kind: str = "geodesic",
    *,
    space: str = "h",
    count: int | None = None,
    angles: bool = False,
    memory: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Pairs:
    """Distances between the spaces of all pairs of samples, of any timesteps and conditions.

    Args:
        bases: of one model, map, tap and rank; S samples in all, in their order.
        kind: as for `grassmann.distance`.
        space: "h" compares the tangent spaces of the features (u), the space of the map's variable,
            such as "x", those of the latents (v).
        count: how many leading directions span a space; all by default.
        angles: whether to return the principal angles, too.
        memory: bytes for products at one time, as for `grassmann.all_pairs`.
        progress: called with the pairs that are done and all of them.

    Returns:
        `grassmann.Pairs`, with distances `[S, S]`.

    Raises:
        TypeError: they are no bases.
        ValueError: they are of different models, maps, taps, shapes or ranks, there is one sample
            only, one has a lower numerical rank than `count`, or numbers are not finite.
        MemoryError: as `grassmann.all_pairs`.

    Warns:
        UserWarning: samples that have not converged, with how far off an angle may be.

    Cost: as `grassmann.all_pairs`; no products of the network.
    Source: Park et al. 2023, arXiv:2307.12868, section 4.
    """
    given = bases_of(bases)
    check_alike(given)
    samples = sum(map(len, given))
    if samples < 2:
        raise ValueError(f"Expected two samples or more to compare, got {samples}.")
    rank = given[0].s.shape[1]
    taken = rank if count is None else whole("count", count, 1, rank)
    check_finite(given)
    check_ranks(given, taken)
    side = pullback.Direction.of_basis(given[0], 0, 0, space).provenance["vector"]
    _warn_unless_converged(given)
    frames = torch.cat([getattr(one, side)[:, :taken].flatten(2) for one in given])
    return all_pairs(frames, kind, angles=angles, memory=memory, progress=progress)


def _warn_unless_converged(bases: list[LocalBasis]) -> None:
    flags = torch.cat([one.converged.cpu() for one in bases])
    missing = torch.nonzero(~flags).flatten().tolist()
    if not missing:
        return
    bounds = torch.cat([one.angle_bound.cpu() for one in bases]).double()[missing].sort().values
    worst = float(bounds[-2:].clamp(max=1).asin().sum())
    off = f"{worst:.1e} rad" if worst < math.pi / 2 else "any amount"
    warnings.warn(
        f"{len(missing)} of {len(flags)} samples have not converged: an angle between their spaces "
        f"of v may be off by {off} (the angles of both angle_bound together); those of u come from "
        "these v. Compute the bases with a larger max_products, or ask for a larger tol.",
        stacklevel=3,
    )
