"""When a sample may stop, and why: the bound on its angle, and what rounding allows."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Decision:
    """Which samples stop, and why.

    Attributes:
        stop: `[A]`, bool.
        reasons: per sample "converged", "floor" or "max_products": why it stops, or would.
        bound: `[A]`, float64, bound on the sine of the largest principal angle.
        residual_norm: `[A]`, float64, ‖A V − V Θ‖₂ of the leading Ritz vectors.
    """

    stop: torch.Tensor
    reasons: tuple[str, ...]
    bound: torch.Tensor
    residual_norm: torch.Tensor


@dataclass(frozen=True)
class Evidence:
    """What is known of the samples that are running, A of them, when they are judged.

    Attributes:
        values: Ritz values `[A, d]`, descending.
        residual: `[A, d, b]`, residuals of all Ritz vectors in coordinates of the pending block.
        ranks: `[A]`, int64, how many Ritz vectors make up the answer: the rank asked for, or the
            numerical rank where that is smaller.
        noise: `[A]`, what rounding may add to the norm of any residual.
        earlier: `[A]`, residual norm two tests ago.
        confirmed: `[A]`, bool, whether the last product could have shown a missing direction.
        exhausted: `[A]`, bool, whether two blocks in a row brought nothing but rounding.
        complete: whether the basis spans the whole space.
        unique: whether there is only one space of the rank asked for.
        following: `[A]`, int64, products after one more step.
    """

    values: torch.Tensor
    residual: torch.Tensor
    ranks: torch.Tensor
    noise: torch.Tensor
    earlier: torch.Tensor
    confirmed: torch.Tensor
    exhausted: torch.Tensor
    complete: bool
    unique: bool
    following: torch.Tensor


def decide(
    evidence: Evidence, *, tol: float, eps: float, floor: float, max_products: int
) -> Decision:
    """Who stops: converged, at the floor of rounding, or out of products.

    Args:
        evidence: what is known of the samples.
        tol: the bound asked for.
        eps: rounding of the products.
        floor: relative residual below which more products do not help.
        max_products: products per sample after which to stop.
    """
    top = evidence.values[:, 0]
    bound, norm, least = angle_bound(
        evidence.values, evidence.residual, evidence.ranks, evidence.noise
    )
    if evidence.unique:
        bound = torch.zeros_like(bound)
    converged = bound <= tol
    stalled = (norm > evidence.earlier / 2) & (norm <= min(100 * eps, 1e-2) * top)
    # At the level of rounding more products help only where the gap is wide enough for tol.
    settled = (norm <= floor * top) & (least > tol) & torch.isfinite(least)
    at_floor = settled | stalled | evidence.exhausted
    confirmed = evidence.confirmed
    if evidence.complete:
        at_floor = confirmed = torch.ones_like(converged)
    spent = (evidence.following > max_products).to(converged.device)
    reasons = tuple(
        "converged" if c else "floor" if f else "max_products"
        for c, f in zip(converged.tolist(), at_floor.tolist(), strict=True)
    )
    return Decision(confirmed & (converged | at_floor) | spent, reasons, bound, norm)


def angle_bound(
    values: torch.Tensor,
    residual: torch.Tensor,
    ranks: torch.Tensor,
    noise: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The bound on the sine of the leading space, ‖R‖₂, and the least that the bound can become.

    With R = A V − V Θ the residual of the first r Ritz vectors, the sine is at most
    ‖R‖₂ / (θ_r − θ_{r+1}), and at most (Σ_i ‖R_i‖² / (θ_i − θ_{r+1})²)^½, which is the smaller of
    the two where the leading values are far from the r-th. r is the rank asked for, or the
    numerical rank where that is smaller. The Ritz values beyond r may still be growing (after a
    warm start, for example, which knows its own directions only), so for θ_{r+1} stands the
    largest of them with its residual added.

    Args:
        values: Ritz values `[B, d]`, descending.
        residual: `[B, d, b]`, residuals of all Ritz vectors in coordinates of the pending block.
        ranks: `[B]`, int64, r per sample.
        noise: `[B]`, what rounding may add to the norm of any residual.

    Returns:
        Three tensors `[B]`. The last is the bound that rounding alone would leave with this gap;
        inf as long as another value may overtake the r-th.
    """
    batch, size = values.shape
    place = ranks.to(values.device).unsqueeze(1)
    inside = torch.arange(size, device=values.device) < place
    norms = torch.linalg.vector_norm(residual, dim=2)
    kept = residual.masked_fill(~inside.unsqueeze(2), 0.0)
    # torch has no 2-norm of a block without columns, which stands for an exhausted space.
    norm = torch.linalg.matrix_norm(kept, ord=2) if residual.shape[2] else values.new_zeros(batch)
    following = (values + norms).masked_fill(inside, 0.0).amax(1, keepdim=True)
    gaps = (values - following).clamp_min(0.0)
    smallest = gaps.gather(1, (place - 1).clamp_min(0)).squeeze(1)
    ratios = (norms + noise.unsqueeze(1)) / gaps
    by_row = torch.linalg.vector_norm(ratios.masked_fill(~inside, 0.0), dim=1)
    bound = torch.minimum((norm + noise) / smallest, by_row).nan_to_num(nan=math.inf)
    bound = bound.clamp_max(1.0)  # no sine is larger
    return torch.where(place.squeeze(1) == 0, 0.0, bound), norm, noise / smallest
