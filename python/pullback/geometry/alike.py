"""What bases must have in common to be compared or averaged, said before any work."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pullback.geometry.bases import LocalBasis

#: Entries of the provenance that must agree, with what to say where they do not.
_ALIKE = {
    "fingerprint": ("weights", "Compute all with one model, in one dtype."),
    "map": ("map", "Compute all with one map of pullback.maps."),
    "wrt": ("variable", "Compute all with one map of pullback.maps."),
    "tap": ("tap", "Compute all at one tap."),
}


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


def check_alike(bases: list[LocalBasis]) -> None:
    """Raise ValueError unless bases are of one model, map, variable, tap, shape and rank."""
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


def check_finite(bases: list[LocalBasis]) -> None:
    """Raise ValueError where u or v has NaN or Inf, naming the samples."""
    for name in ("u", "v"):
        finite = torch.cat([getattr(one, name).isfinite().flatten(1).all(1).cpu() for one in bases])
        if not bool(finite.all()):
            raise ValueError(
                f"Expected finite {name}, got NaN or Inf in samples "
                f"{torch.nonzero(~finite).flatten().tolist()}. Compute their bases again."
            )


def check_ranks(bases: list[LocalBasis], count: int) -> None:
    """Raise ValueError where fewer directions than `count` are above the numerical rank."""
    ranks = [rank for one in bases for rank in one.rank.tolist()]
    sample = min(range(len(ranks)), key=ranks.__getitem__)
    least = ranks[sample]
    if least < count:
        cure = f"Use count={least}, or leave" if least else "Leave"
        raise ValueError(
            f"Expected a numerical rank of at least {count} in each sample, got {least} in sample "
            f"{sample}, whose further directions are arbitrary. {cure} the sample out."
        )
