"""Linear algebra on blocks of rows `[B, k, N]`: rotations, factorisations, sizes."""

from __future__ import annotations

import torch

import pullback_ext
from pullback_ext.reference import MOST_ROWS


def rotate(transform: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """The rows transform @ rows: `[B, p, k]` (any dtype) times `[B, k, N]`, in the rows' dtype."""
    return transform.to(rows.dtype) @ rows


def unit_rows(rows: torch.Tensor) -> torch.Tensor:
    """Rows of norm one; zero rows stay zero, and no row over- or underflows on the way."""
    peak = rows.abs().amax(dim=2, keepdim=True)
    rows = rows / torch.where(peak > 0, peak, 1)
    norm = torch.linalg.vector_norm(rows, dim=2, keepdim=True)
    return rows / torch.where(norm > 0, norm, 1)


def lq(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The factorisation rows = l q of blocks of any rank.

    Args:
        rows: `[B, k, N]`, k <= N, float32 or float64.

    Returns:
        l `[B, k, k]`, float64, lower triangular; q `[B, k, N]`, orthonormal rows.
    """
    batch, k, columns = rows.shape
    lower = rows.new_zeros(batch, k, k, dtype=torch.float64)
    q = rows.new_empty(batch, k, columns)
    for start in range(0, k, MOST_ROWS):
        end = min(start + MOST_ROWS, k)
        step = pullback_ext.block_step(rows[:, start:end], q[:, :0], q[:, :start])
        lower[:, start:end, :start] = step.projection.mT
        lower[:, start:end, start:end] = step.residual
        q[:, start:end] = step.q
    return lower, q
