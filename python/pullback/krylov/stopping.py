"""When a sample may stop, and why: the bound on its angle, and what rounding allows."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any

import torch

from pullback.krylov.bounds import Bound, angle_bound


@dataclass(frozen=True)
class Decision:
    """Which samples stop, and why.

    Attributes:
        stop: `[A]`, bool.
        doubtful: `[A]`, bool: converged or at the floor, if nothing is missing in the basis.
        reasons: per sample "converged", "floor" or "max_products": why it stops, or would.
        bound: `[A]`, float64, bound on the sine of the largest principal angle.
        residual_norm: `[A]`, float64, ‖A V − V Θ‖₂ of the leading Ritz vectors.
        reach: `[A, r]`, float64, as in `Bound`.
    """

    stop: torch.Tensor
    doubtful: torch.Tensor
    reasons: tuple[str, ...]
    bound: torch.Tensor
    residual_norm: torch.Tensor
    reach: torch.Tensor


@dataclass(frozen=True)
class Evidence:
    """What is known of the samples that are running, A of them, when they are judged.

    Attributes:
        values: Ritz values `[A, d]`, descending.
        residual: `[A, d, b]`, residuals of all Ritz vectors in coordinates of the pending block.
        ranks: `[A]`, int64, how many Ritz vectors make up the answer: the rank asked for, or the
            numerical rank where that is smaller.
        noise: `[A]`, what rounding may add to the norm of any residual.
        hidden: `[A]`, residual norm below which rounding hides what more products would show.
        outside: `[A]`, what no vector orthogonal to the basis exceeds in xᵀAx.
        trusted: `[A]`, bool, whether `outside` is more than a guess.
        earlier: `[A]`, residual norm two tests ago.
        exhausted: `[A]`, bool, whether two blocks in a row brought nothing but rounding.
        complete: whether the basis spans the whole space.
        following: `[A]`, int64, products after one more step.
    """

    values: torch.Tensor
    residual: torch.Tensor
    ranks: torch.Tensor
    noise: torch.Tensor
    hidden: torch.Tensor
    outside: torch.Tensor
    trusted: torch.Tensor
    earlier: torch.Tensor
    exhausted: torch.Tensor
    complete: bool
    following: torch.Tensor

    def select(self, rows: torch.Tensor) -> Evidence:
        """Of some of the samples, at int64 indices on the CPU."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        chosen: dict[str, Any] = {
            name: value[rows] for name, value in values.items() if isinstance(value, torch.Tensor)
        }
        return replace(self, **chosen)

    @property
    def last(self) -> torch.Tensor:
        """`[A]`, the smallest of the leading values; 0 where there is none."""
        place = self.ranks.to(self.values.device).unsqueeze(1)
        last = self.values.gather(1, (place - 1).clamp_min(0)).squeeze(1)
        return torch.where(place.squeeze(1) > 0, last, 0.0)

    @property
    def gap(self) -> torch.Tensor:
        """`[A]`, from the smallest of the leading values to the next; inf where there is none."""
        place = self.ranks.to(self.values.device).unsqueeze(1)
        following = self.values.gather(1, place.clamp_max(self.values.shape[1] - 1)).squeeze(1)
        there = place.squeeze(1) < self.values.shape[1]
        return torch.where(there, self.last - following, math.inf)

    def zero(self, level: float, rank: int) -> torch.Tensor:
        """`[A]`, what A may have outside the basis where singular values are said to be zero.

        Args:
            level: singular values up to this fraction of the largest are zero.
            rank: how many were asked for.
        """
        top = self.values[:, 0]
        limit = (2 * level) ** 2 * torch.where(top > 0, top, 1.0)
        return torch.where(self.ranks.to(limit.device) < rank, limit, math.inf)


def bound_of(evidence: Evidence) -> Bound:
    """The bound on the angle that follows from what is known."""
    return angle_bound(
        evidence.values, evidence.residual, evidence.ranks, evidence.noise, evidence.outside
    )


def decide(evidence: Evidence, *, n: int, tol: float, eps: float, max_products: int) -> Decision:
    """Who stops: converged, at the floor of rounding, or out of products.

    Args:
        evidence: what is known of the samples.
        n: entries of an input.
        tol: the bound asked for.
        eps: rounding of the products.
        max_products: products per sample after which to stop.
    """
    top = evidence.values[:, 0]
    found = bound_of(evidence)
    bound, norm, least = found.sine, found.residual_norm, found.least
    ranks = evidence.ranks.to(bound.device)
    bound = bound.masked_fill(ranks == n, 0.0)  # the whole space
    converged = bound <= tol
    # A residual that no longer falls is at the level of rounding, too; but as long as the next
    # value is not known as well, more products may widen the gap.
    known = torch.isfinite(least) | (evidence.gap <= 8 * evidence.noise)
    stalled = (norm > evidence.earlier / 2) & (norm <= min(100 * eps, 1e-2) * top) & known
    # At the level of rounding more products help only where the gap is wide enough for tol.
    narrow = (norm <= evidence.hidden) & (least > tol) & torch.isfinite(least)
    at_floor = narrow | stalled | evidence.exhausted
    if evidence.complete:
        at_floor = torch.ones_like(converged)
    spent = (evidence.following > max_products).to(converged.device)
    settled = converged | at_floor
    trusted = evidence.trusted | (ranks == n) | evidence.complete
    reasons = tuple(
        "max_products" if not t else "converged" if c else "floor" if f else "max_products"
        for c, f, t in zip(converged.tolist(), at_floor.tolist(), trusted.tolist(), strict=True)
    )
    return Decision(
        settled & trusted | spent, settled & ~trusted, reasons, bound, norm, found.reach
    )
