"""From Ritz vectors to singular triplets: signs, zeros, and where results are kept."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from pullback.krylov.blocks import lq, rotate
from pullback.krylov.result import SVDResult
from pullback.operators import BlockOperator


def zero_level(dtype: torch.dtype) -> float:
    """Singular values up to this fraction of the largest are zero: JᵀJ resolves no smaller."""
    return 1e-8 if dtype == torch.float64 else 1e-4


def signs(v: torch.Tensor) -> torch.Tensor:
    """±1 per row [B, k, 1], so that the entry of largest magnitude becomes positive."""
    largest = v.abs().argmax(dim=2, keepdim=True)
    return torch.where(v.gather(2, largest) < 0, -1.0, 1.0).to(v.dtype)


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


def resolved(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The singular values of J on the span of some vectors, down to the rounding of J.

    Args:
        images: J applied to d orthonormal vectors, `[B, d, m]`.

    Returns:
        s `[B, d]`, descending, and the right singular vectors in coordinates of the vectors,
        `[B, d, d]`; both float64.
    """
    rows = images.shape[1]
    if rows > images.shape[2]:  # more vectors than J has rows: some of them are zero directions
        across, s, _ = torch.linalg.svd(images.double(), full_matrices=True)
        return torch.nn.functional.pad(s, (0, rows - s.shape[1])), across.mT
    across, s, _ = torch.linalg.svd(lq(images)[0])
    return s, across.mT


class Results:
    """The samples' triplets as they finish, in the order of the batch; all have to, in the end."""

    def __init__(self, operator: BlockOperator, rank: int, dtype: torch.dtype) -> None:
        batch, device = operator.batch, operator.device
        n, m = math.prod(operator.x_shape), math.prod(operator.h_shape)
        self.u = torch.empty(batch, rank, m, dtype=dtype, device=device)
        self.v = torch.empty(batch, rank, n, dtype=dtype, device=device)
        self.s = torch.empty(batch, rank, dtype=dtype, device=device)
        self.residual = torch.empty(batch, rank, dtype=dtype, device=device)
        self.angle_bound = torch.empty(batch, dtype=torch.float64, device=device)
        self.converged = torch.empty(batch, dtype=torch.bool, device=device)
        self.rank = torch.empty(batch, dtype=torch.int64, device=device)
        self.products = torch.zeros(batch, dtype=torch.int64, device="cpu")
        self.stopped = [""] * batch

    def count(self, index: torch.Tensor, products: int) -> None:
        """Count products for each of the samples at `index`, on the CPU."""
        self.products[index] += products

    def put(
        self,
        index: torch.Tensor,
        found: Triplets,
        bound: torch.Tensor,
        converged: torch.Tensor,
        reasons: tuple[str, ...],
    ) -> None:
        """Store the triplets of the samples at `index`."""
        rows = index.to(self.rank.device)
        self.u[rows], self.v[rows], self.s[rows] = found.u, found.v, found.s.to(self.s.dtype)
        self.residual[rows] = found.residual.to(self.residual.dtype)
        self.angle_bound[rows], self.converged[rows] = bound, converged
        self.rank[rows] = found.rank
        for sample, reason in zip(index.tolist(), reasons, strict=True):
            self.stopped[sample] = reason

    def complete(self, tol: float) -> SVDResult:
        """The result of all samples, once every one of them has been put.

        Args:
            tol: the bound that was asked for.
        """
        return SVDResult(
            u=self.u,
            s=self.s,
            v=self.v,
            residual=self.residual,
            angle_bound=self.angle_bound,
            converged=self.converged,
            rank=self.rank,
            products=self.products.to(self.rank.device),
            stopped=tuple(self.stopped),
            tol=tol,
        )
