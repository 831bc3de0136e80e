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
from pullback.geometry.bases import LocalBasis

#: Entries of the provenance that must agree, with what to say where they do not.
_ALIKE = {
    "fingerprint": ("weights", "Compute all with one model, in one dtype."),
    "map": ("map", "Compute all with one map of pullback.maps."),
    "wrt": ("variable", "Compute all with one map of pullback.maps."),
    "tap": ("tap", "Compute all at one tap."),
}


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


def bases_of(bases: LocalBasis | Sequence[LocalBasis]) -> list[LocalBasis]:
    """The bases as a list.

    Raises:
        TypeError: there is something else among them.
        ValueError: there are none.
    """
    given = [bases] if isinstance(bases, LocalBasis) else bases
    if not isinstance(given, Sequence):
        raise TypeError(
            f"Expected a LocalBasis, or a list of them, got {type(bases).__name__}. "
            "pullback.local_basis makes one of a batch of latents."
        )
    for place, one in enumerate(given):
        if not isinstance(one, LocalBasis):
            raise TypeError(
                f"Expected each of the bases as a LocalBasis, got {type(one).__name__} at place "
                f"{place}. pullback.local_basis makes one of a batch of latents."
            )
    if not given:
        raise ValueError(
            "Expected one basis or more, got none. pullback.local_basis makes one of a batch of "
            "latents."
        )
    return list(given)


def gather(bases: list[LocalBasis], space: str, count: int | None) -> Gathered:
    """The leading directions of all samples, where they can be averaged.

    Raises:
        ValueError: what keeps them from it, with the basis or the sample.
    """
    _check_alike(bases)
    check_samples(sum(len(one) for one in bases))
    check_times([t for one in bases for t in one.provenance["t"]])
    most = bases[0].s.shape[1]
    taken = most if count is None else whole("count", count, 1, most)
    _check_finite(bases)
    _check_ranks(bases, taken)
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


def _check_alike(bases: list[LocalBasis]) -> None:
    first = bases[0]
    for place, other in enumerate(bases[1:], 1):
        for name, (what, cure) in _ALIKE.items():
            ours, theirs = first.provenance.get(name), other.provenance.get(name)
            if ours != theirs:
                models = ""
                if name == "fingerprint":
                    names = [one.provenance.get("model") for one in (first, other)]
                    models = f" (models {names[0]} and {names[1]})"
                raise ValueError(
                    f"Expected bases of one {what}, got {ours!r} and, in basis {place}, "
                    f"{theirs!r}{models}. {cure}"
                )
        for name in ("v", "u"):
            mine, its = getattr(first, name).shape[2:], getattr(other, name).shape[2:]
            if mine != its:
                raise ValueError(
                    f"Expected {name} of one shape in all bases, got {list(mine)} and, in basis "
                    f"{place}, {list(its)}. Use latents of one size."
                )
        if first.s.shape[1] != other.s.shape[1]:
            raise ValueError(
                f"Expected bases of one rank, got {first.s.shape[1]} directions and, in basis "
                f"{place}, {other.s.shape[1]}. Compute all with one rank."
            )
        if first.v.device != other.v.device:
            raise ValueError(
                f"Expected bases on one device, got {first.v.device} and, in basis {place}, "
                f"{other.v.device}. basis.to(device) moves one."
            )


def _check_finite(bases: list[LocalBasis]) -> None:
    for name in ("u", "v"):
        finite = torch.cat([getattr(one, name).isfinite().flatten(1).all(1).cpu() for one in bases])
        if not bool(finite.all()):
            raise ValueError(
                f"Expected finite {name}, got NaN or Inf in samples "
                f"{torch.nonzero(~finite).flatten().tolist()}. Compute their bases again."
            )


def _check_ranks(bases: list[LocalBasis], count: int) -> None:
    ranks = [rank for one in bases for rank in one.rank.tolist()]
    sample = min(range(len(ranks)), key=ranks.__getitem__)
    least = ranks[sample]
    if least < count:
        cure = f"Use count={least}, or leave" if least else "Leave"
        raise ValueError(
            f"Expected a numerical rank of at least {count} in each sample, got {least} in sample "
            f"{sample}, whose further directions are arbitrary. {cure} the sample out."
        )
