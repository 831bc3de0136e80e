"""Means of local bases: of matched directions, or of the subspaces that they span."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from pullback._numbers import whole
from pullback.geometry.averaging import checks
from pullback.geometry.averaging.result import GlobalDirections
from pullback.geometry.bases import LocalBasis
from pullback.geometry.grassmann import frame_mean, karcher_mean, match, polar

#: Length of the mean tangent, in radians, at which a mean of subspaces has arrived: bases are known
#: to about 1e-3, and each step takes off as little as a twentieth where samples lie far apart.
_ARRIVED = 1e-8


def global_directions(
    bases: LocalBasis | Sequence[LocalBasis],
    how: str = "frechet",
    *,
    space: str = "h",
    reference: int = 0,
    count: int | None = None,
) -> GlobalDirections:
    """Directions that stand for those of many samples: the mean of their local bases.

    Every method first says which direction of each sample stands for which one of a reference
    sample, and which way it points. "nearest" takes the one with the largest |cos|, so that two may
    choose the same, and averages; "hungarian" matches one to one, with the largest sum of |cos|,
    averages and takes the nearest orthonormal frame; "frechet" takes the mean of the subspaces on
    the Grassmann manifold (least sum of squared geodesic distances), and in it the frame nearest to
    the matched ones. All give the directions in the order of the reference's, which depends on the
    reference alone, and with its signs.

    Args:
        bases: the samples' bases, two samples or more: one batch, or several of one model, map, tap
            and rank, all at one timestep.
        how: "nearest", "hungarian" or "frechet".
        space: "h" for the u of bases of `maps.encoder`, the directions in the feature; else the
            space of the map's variable, such as "x", for the v.
        reference: the sample whose directions the others are matched to, counted through all
            bases.
        count: leading directions of each sample that take part; all by default. What is left out
            is not matched either: for some of all, take them of the result, `found[:3]`.

    Returns:
        `GlobalDirections` in the bases' dtype. `agreement` is the mean over the samples of |cos|
        between a direction and what stands for it there; where S samples have nothing in common it
        still is about 1 / √S.

    Raises:
        TypeError: bases are something else.
        ValueError: there is one sample only, they do not belong together, a sample's numerical
            rank is below count, there is no such method, space or sample, the numbers are not
            finite, or the samples have no single mean.

    Warns:
        UserWarning: samples have not converged.

    Cost: no products. In float64 one QR decomposition of all S k directions, 8 (S k + k) N bytes,
    and for "frechet" singular values of S matrices `[k, min(S k, N)]` a step.

    Source: Park et al. 2023, arXiv:2307.12868, whose code names these means and leaves them out;
    the logarithm and the mean are those of `pullback.geometry.grassmann`.
    """
    if how == "metric":
        raise ValueError(
            f"Expected how as one of {', '.join(_MEANS)}, got 'metric', which needs the model: "
            "pullback.mean_metric(model, x, t, rank)."
        )
    if not isinstance(how, str) or how not in _MEANS:
        raise ValueError(f"Expected how as one of {', '.join(_MEANS)}, got {how!r:.60}.")
    given = checks.bases_of(bases)
    samples = sum(len(one) for one in given)
    reference = whole("reference", reference, 0, max(samples - 1, 0))
    found = checks.gather(given, space, count)
    checks.warn_unless_converged(given, found.worst)
    rows, back = _in_their_span(found.rows)
    try:
        matched, mean = _MEANS[how](rows, reference)
    except (ValueError, RuntimeError) as error:
        raise ValueError(_no_mean(how, rows.shape[1], error)) from error
    mean = mean / mean.norm(dim=-1, keepdim=True)
    forwards = (mean * rows[reference]).sum(-1, keepdim=True) >= 0
    mean = torch.where(forwards, mean, -mean)
    agreement = (matched * mean).sum(-1).abs().mean(0).clamp(max=1)
    dtype = given[0].v.dtype if given[0].v.dtype == torch.float64 else torch.float32
    known = {name: value for name, value in given[0].provenance.items() if name != "seed"}
    return GlobalDirections(
        vectors=back(mean).unflatten(1, found.shape).to(dtype),
        space=found.space,
        how=how,
        agreement=agreement,
        s=None,
        provenance={
            **known,
            "t": given[0].provenance["t"][0],
            "how": f"global directions, {how}",
            "vector": found.side,
            "pool": found.pool,
            "samples": samples,
            "reference": reference,
            "converged": found.converged,
            "angle_bound": found.worst if math.isfinite(found.worst) else None,
        },
    )


def _nearest(rows: torch.Tensor, reference: int) -> tuple[torch.Tensor, torch.Tensor]:
    matched = match(rows[reference], rows, one_to_one=False).apply(rows)
    return matched, matched.mean(0)


def _hungarian(rows: torch.Tensor, reference: int) -> tuple[torch.Tensor, torch.Tensor]:
    matched = match(rows[reference], rows).apply(rows)
    return matched, polar(matched.mean(0))


def _frechet(rows: torch.Tensor, reference: int) -> tuple[torch.Tensor, torch.Tensor]:
    matched = match(rows[reference], rows).apply(rows)
    return matched, frame_mean(matched, karcher_mean(rows, tol=_ARRIVED))


#: What each method makes of rows `[S, k, N]`: those matched to the reference, and their mean.
_MEANS: dict[str, Callable[[torch.Tensor, int], tuple[torch.Tensor, torch.Tensor]]] = {
    "nearest": _nearest,
    "hungarian": _hungarian,
    "frechet": _frechet,
}


def _in_their_span(
    rows: torch.Tensor,
) -> tuple[torch.Tensor, Callable[[torch.Tensor], torch.Tensor]]:
    """Rows `[S, k, N]` in coordinates of a space that holds them all, and the way back.

    Means lie in that space too, and it is far smaller where there are few samples.
    """
    samples, k, n = rows.shape
    if samples * k >= n:
        return rows, lambda mean: mean
    q, r = torch.linalg.qr(rows.flatten(0, 1).mT)
    return r.mT.unflatten(0, (samples, k)), lambda mean: mean @ q.mT


def _no_mean(how: str, count: int, error: Exception) -> str:
    fewer = f"fewer directions (count below {count}), " if count > 1 else ""
    other = "hungarian" if how == "frechet" else "nearest"
    return (
        f"The samples have no single mean of {count} directions each: {error} Use {fewer}a larger "
        f't, where samples have more in common, or how="{other}".'
    )
