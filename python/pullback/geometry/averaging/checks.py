"""What bases must have in common to be averaged, said before any work."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch

# Directions stand above this room: they are reached by the front door, when they are asked for.
import pullback
from pullback._numbers import whole
from pullback.geometry.alike import check_alike, check_finite, check_ranks
from pullback.geometry.bases import LocalBasis


@dataclass(frozen=True, eq=False)
class Gathered:
    """The directions of all samples in one space.

    Attributes:
        rows: `[S, k, N]`, float64, of norm 1.
        shape: `[*shape]` of one direction.
        space: "h", or that of the map's variable.
        side: which field of the bases they are, "u" or "v".
        pool: "space" for pooled features, else None.
        worst: the largest bound on the sine of the angle to the true spaces.
        converged: whether all samples are.
    """

    rows: torch.Tensor
    shape: tuple[int, ...]
    space: str
    side: str
    pool: str | None
    worst: float
    converged: bool


def gather(bases: list[LocalBasis], space: str, count: int | None) -> Gathered:
    """The leading directions of all samples, where they can be averaged.

    Raises:
        ValueError: what keeps them from it, with the basis or the sample.
    """
    check_alike(bases)
    check_samples(sum(len(one) for one in bases))
    check_times([t for one in bases for t in one.provenance["t"]])
    most = bases[0].s.shape[1]
    taken = most if count is None else whole("count", count, 1, most)
    check_finite(bases)
    check_ranks(bases, taken)
    # What a direction of the first sample is, those of the others are too.
    example = pullback.Direction.of_basis(bases[0], 0, 0, space)
    side = example.provenance["vector"]
    rows = torch.cat([getattr(one, side)[:, :taken].flatten(2).double() for one in bases])
    return Gathered(
        rows=rows / rows.norm(dim=-1, keepdim=True),
        shape=tuple(example.vector.shape),
        space=example.space,
        side=side,
        pool=example.pool,
        worst=max(float(one.angle_bound.max()) for one in bases),
        converged=all(bool(one.converged.all()) for one in bases),
    )


def check_samples(count: int) -> None:
    """Raise ValueError unless there are two samples or more."""
    if count < 2:
        raise ValueError(
            f"Expected two samples or more, got {count}: a mean over one sample is that sample's "
            "own basis, whose direction(index) gives its directions. Use more latents x."
        )


def check_times(times: Sequence[int]) -> None:
    """Raise ValueError unless all samples are at one timestep (training units)."""
    found = sorted(set(times))
    if len(found) > 1:
        raise ValueError(
            f"Expected samples at one timestep, got {found}: what directions do changes with t, "
            "and means are defined, and published, at one t. Average the samples of each t by "
            "themselves."
        )


def warn_unless_converged(bases: list[LocalBasis], worst: float) -> None:
    """Warn of samples whose bases are less accurate than they were asked for."""
    flags = torch.cat([one.converged.cpu() for one in bases])
    missing = torch.nonzero(~flags).flatten().tolist()
    if not missing:
        return
    shown = ", ".join(map(str, missing[:8])) + (", ..." if len(missing) > 8 else "")
    bound = f"{worst:.1e}" if math.isfinite(worst) else "not known"
    tol = max(one.tol for one in bases)
    warnings.warn(
        f"{len(missing)} of {len(flags)} samples have not converged (samples {shown}), which may "
        "enter the mean: the sine of the largest angle between their directions and the true ones "
        f"is bounded by {bound}, not by tol = {tol:.1e}. Compute their bases with a larger "
        "max_products, or ask for a larger tol.",
        stacklevel=3,
    )
