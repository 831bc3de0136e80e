"""What bases must have in common, and what must be left of a direction, before it is carried."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import torch
from scipy.special import betaincinv

from pullback.geometry.bases import LocalBasis

#: A direction that keeps less has lost more than 99 % of its squared length.
LEAST = 0.1
#: Share of random directions that keep more than what counts as chance.
_CHANCE = 1e-3
#: Steps of rounding of the rows up to which nothing is left of a unit vector.
_NOTHING = 8

#: Entries of the provenance that two bases must share, in words.
_SHARED = {
    "fingerprint": "of the same model (fingerprint; in another dtype it is another one)",
    "map": "of the same map",
    "wrt": "with respect to the same variable",
    "tap": "at the same tap",
}


def check_basis(name: str, basis: object) -> LocalBasis:
    """A basis whose numbers are finite and whose samples all have a direction.

    Raises:
        TypeError: it is no basis.
        ValueError: what is wrong with its numbers.
    """
    if not isinstance(basis, LocalBasis):
        raise TypeError(
            f"Expected the {name} as a LocalBasis, got {type(basis).__name__}. "
            "pullback.local_basis makes one."
        )
    for part in ("u", "s", "v"):
        if not bool(torch.isfinite(getattr(basis, part)).all()):
            raise ValueError(f"Expected finite numbers in {part} of the {name}, got NaN or Inf.")
    empty = torch.nonzero(basis.rank == 0).flatten().tolist()
    if empty:
        raise ValueError(
            f"The {name} has numerical rank 0 at sample {_some(empty)}: the map does not change "
            "there, and there is no tangent space. Leave the sample out: basis[[...]]."
        )
    return basis


def check_alike(source: LocalBasis, target: LocalBasis) -> None:
    """Raise ValueError unless two bases have their tangent spaces in one feature space."""
    for name, words in _SHARED.items():
        was, now = source.provenance.get(name), target.provenance.get(name)
        if was != now:
            raise ValueError(
                f"Expected source and target {words}, got {was!r} and {now!r}. Compute one of them "
                "again."
            )
    was, now = list(source.u.shape[2:]), list(target.u.shape[2:])
    if was != now:
        raise ValueError(
            f"Expected features of one shape in source and target, got {was} and {now}: the same "
            "tap has them at latents of the same size."
        )


def warn_of_bases(source: LocalBasis | None, target: LocalBasis) -> None:
    """Warn the caller of a public function of samples that did not converge."""
    for name, basis in (("source", source), ("target", target)):
        if basis is not None:
            warn_unconverged(f"the {name}", unconverged(basis), basis.tol)


def warn_unconverged(names: str, bounds: Sequence[float], asked: float) -> None:
    """Warn of bases that did not reach the bound that was asked for; nothing where there are none.

    Args:
        names: what they are, such as "the target".
        bounds: `angle_bound` of those that did not converge.
        asked: their `tol`.

    The function that calls this is called by a public one, whose caller is told.
    """
    if not bounds:
        return
    worst = max(bounds)
    off = f"up to {worst:.2g}" if worst < 1 else "any amount, since no bound was found"
    warnings.warn(
        f"{len(bounds)} bases of {names} did not converge to {asked:g}: the sine of the largest "
        f"angle between such a space and the true one may be {worst:.2g} (angle_bound), and what "
        f"is carried, and how much is retained, may be off by {off}. Compute them with more "
        "max_products, or at a rank where the singular values have a gap.",
        stacklevel=4,
    )


def unconverged(basis: LocalBasis) -> list[float]:
    """The bounds of the samples that did not converge."""
    found: list[float] = basis.angle_bound[~basis.converged].tolist()
    return found


def nothing(dtype: torch.dtype) -> float:
    """What is kept of a unit vector by rows of this dtype is rounding up to here."""
    return _NOTHING * torch.finfo(dtype).eps


def least_of(rank: int, size: int) -> float:
    """What a direction must keep to be more than chance: see `warn_little`.

    Args:
        rank: k, of the space that it is projected on.
        size: N, of the space that it lies in.

    Returns:
        The larger of 0.1 and what 1 in 1000 random unit vectors exceed: of these, the squared
        norm of the projection has the distribution Beta(k / 2, (N − k) / 2), with the mean k / N.
    """
    if rank >= size:
        return LEAST  # nothing can be lost
    return max(LEAST, math.sqrt(betaincinv(rank / 2, (size - rank) / 2, 1 - _CHANCE)))


def warn_little(
    kept: torch.Tensor, ranks: torch.Tensor, size: int, space: str, *, depth: int = 0
) -> None:
    """Warn where so little is kept that it may be chance, or too little to mean the same.

    The rule is `least_of`. It asks for two things. The direction has to be told from noise, for
    which √(k / N), what a random one keeps in the mean, is no measure alone, as half of the random
    ones keep more. And where N is large, where chance is next to nothing, a hundredth of the
    squared length is the least from which one may still hope for the same meaning.

    Args:
        kept: `[D, B]`, norms of projections of unit vectors.
        ranks: `[B]`, of the spaces that they were projected on.
        size: N, of the space that they lie in.
        space: the spaces in words.
        depth: functions between this one and the public one, whose caller is told.
    """
    bars = torch.tensor([least_of(rank, size) for rank in ranks.tolist()], dtype=torch.float64)
    below = kept < bars.to(kept.device)
    if not bool(below.any()):
        return
    at = int(kept.argmin())
    direction, sample = divmod(at, kept.shape[1])
    bar = float(bars[sample])
    reason = "chance keeps as much" if bar > LEAST else "99 % of the squared length is lost"
    warnings.warn(
        f"{int(below.sum())} of {kept.numel()} directions keep less than {bar:.3g} of their length "
        f"in {space}, where {reason}: the least is {float(kept.min()):.3g}, of direction "
        f"{direction} at sample {sample}. What is carried there may mean something else. Take a "
        "higher rank, a noisier timestep, or samples that are more alike.",
        stacklevel=3 + depth,
    )


def check_something(kept: torch.Tensor, dtype: torch.dtype, space: str) -> None:
    """Raise ValueError where nothing is kept of a direction, up to rounding.

    Args:
        kept: `[D, B]`, norms of projections of unit vectors.
        dtype: of the rows that span the spaces.
        space: the space in words, as in "the tangent space".
    """
    lost = torch.nonzero(kept <= nothing(dtype))
    if len(lost):
        direction, sample = lost[0].tolist()
        raise ValueError(
            f"Nothing of direction {direction} lies in {space} of sample {sample} "
            f"({len(lost)} of {kept.numel()} such cases), so that it cannot be carried there. "
            "Expected a higher rank, or samples that are more alike."
        )


def _some(samples: list[int]) -> str:
    shown = ", ".join(map(str, samples[:5]))
    return shown if len(samples) <= 5 else f"{shown} and {len(samples) - 5} more"
