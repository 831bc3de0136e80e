"""From Ritz vectors to singular triplets: bounds, signs, zeros, and where results are kept."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from pullback.krylov.blocks import lq, rotate

if TYPE_CHECKING:
    from pullback.krylov import BlockOperator


def zero_level(dtype: torch.dtype) -> float:
    """Singular values up to this fraction of the largest are zero: JᵀJ resolves no smaller."""
    return 1e-8 if dtype == torch.float64 else 1e-4


def power_of_two(image: torch.Tensor) -> torch.Tensor:
    """Per sample the power of two just above the largest row norm of `image` (1 for zeros)."""
    largest = torch.linalg.vector_norm(image.double(), dim=2).amax(1)
    exponent = torch.frexp(largest).exponent
    return torch.ldexp(torch.ones_like(largest), exponent)


def signs(v: torch.Tensor) -> torch.Tensor:
    """±1 per row [B, k, 1], so that the entry of largest magnitude becomes positive."""
    largest = v.abs().argmax(dim=2, keepdim=True)
    return torch.where(v.gather(2, largest) < 0, -1.0, 1.0).to(v.dtype)


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
    spread = torch.linalg.matrix_norm(kept, ord=2) if residual.shape[2] else values.new_zeros(batch)
    following = (values + norms).masked_fill(inside, 0.0).amax(1, keepdim=True)
    gaps = (values - following).clamp_min(0.0)
    smallest = gaps.gather(1, (place - 1).clamp_min(0)).squeeze(1)
    ratios = (norms + noise.unsqueeze(1)) / gaps
    by_row = torch.linalg.vector_norm(ratios.masked_fill(~inside, 0.0), dim=1)
    bound = torch.minimum((spread + noise) / smallest, by_row).nan_to_num(nan=math.inf)
    bound = bound.clamp_max(1.0)  # no sine is larger
    return torch.where(place.squeeze(1) == 0, 0.0, bound), spread, noise / smallest


@dataclass(frozen=True)
class Triplets:
    """Singular triplets of some samples, in units of their scale.

    Attributes:
        u: `[B, k, m]`.
        s: `[B, k]`, float64, exact zeros beyond the rank.
        v: `[B, k, n]`.
        residual: `[B, k]`, ‖Jᵀu_i − s_i v_i‖ / s_1; zero where s_i is, for the caller to ask J.
        rank: `[B]`, int64.
    """

    u: torch.Tensor
    s: torch.Tensor
    v: torch.Tensor
    residual: torch.Tensor
    rank: torch.Tensor


def triplets(
    right: torch.Tensor, images: torch.Tensor, values: torch.Tensor, residual: torch.Tensor
) -> Triplets:
    """One Rayleigh-Ritz step on J itself: JᵀJ squares the singular values and their errors.

    Args:
        right: the Ritz vectors, `[B, k, n]`.
        images: J applied to them, `[B, k, m]`.
        values: their Ritz values `[B, k]`.
        residual: A v − θ v in coordinates of the pending block, `[B, k, b]`.
    """
    factor, left = lq(images)
    turn, s, across = torch.linalg.svd(factor)
    v, u = rotate(turn.mT, right), rotate(across, left)
    # A turn of the Ritz vectors is no longer exact for T: what it leaves counts as residual too.
    mismatch = turn.mT @ (values.unsqueeze(2) * turn) - torch.diag_embed(s**2)
    error = torch.linalg.vector_norm(torch.cat([turn.mT @ residual, mismatch], dim=2), dim=2)
    s = torch.where(s > zero_level(right.dtype) * s[:, :1], s, 0.0)
    error = torch.where(s > 0, error / torch.where(s > 0, s, 1.0), 0.0)
    error = error / torch.where(s[:, :1] > 0, s[:, :1], 1.0)
    sign = signs(v)
    return Triplets(u * sign, s, v * sign, error, (s > 0).sum(1))


class Found:
    """The samples' triplets as they finish, in the order of the batch."""

    def __init__(self, operator: BlockOperator, rank: int, work: torch.dtype) -> None:
        batch, device = operator.batch, operator.device
        n, m = math.prod(operator.x_shape), math.prod(operator.h_shape)
        self.u = torch.empty(batch, rank, m, dtype=work, device=device)
        self.v = torch.empty(batch, rank, n, dtype=work, device=device)
        self.s = torch.empty(batch, rank, dtype=work, device=device)
        self.residual = torch.empty(batch, rank, dtype=work, device=device)
        self.angle_bound = torch.empty(batch, dtype=torch.float64, device=device)
        self.converged = torch.empty(batch, dtype=torch.bool, device=device)
        self.rank = torch.empty(batch, dtype=torch.int64, device=device)
        self.stopped = [""] * batch

    def put(
        self,
        index: torch.Tensor,
        found: Triplets,
        bound: torch.Tensor,
        converged: torch.Tensor,
        reasons: list[str],
    ) -> None:
        """Store the triplets of the samples at `index`."""
        rows = index.to(self.rank.device)
        self.u[rows], self.v[rows], self.s[rows] = found.u, found.v, found.s.to(self.s.dtype)
        self.residual[rows] = found.residual.to(self.residual.dtype)
        self.angle_bound[rows], self.converged[rows] = bound, converged
        self.rank[rows] = found.rank
        for sample, reason in zip(index.tolist(), reasons, strict=True):
            self.stopped[sample] = reason
