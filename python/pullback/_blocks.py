"""Linear algebra on blocks of rows `[B, k, N]`: projections, rotations, orthonormal bases."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

import pullback_ext

#: Passes of projection and QR: two suffice for independent rows, each dependent row costs one.
_MAX_PASSES = 8


def gram(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Inner products a bᵀ `[B, k, p]` in float64, of rows `[B, k, N]` and `[B, p, N]`."""
    return pullback_ext.gram(a, b)


def rotate(transform: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """The rows transform @ rows: `[B, p, k]` (any dtype) times `[B, k, N]`, in the rows' dtype."""
    return transform.to(rows.dtype) @ rows


def unit_rows(rows: torch.Tensor) -> torch.Tensor:
    """Rows of norm one; zero rows stay zero, and no row over- or underflows on the way."""
    peak = rows.abs().amax(dim=2, keepdim=True)
    rows = rows / torch.where(peak > 0, peak, 1)
    norm = torch.linalg.vector_norm(rows, dim=2, keepdim=True)
    return rows / torch.where(norm > 0, norm, 1)


def orthonormal_complement(
    rows: torch.Tensor,
    against: Sequence[torch.Tensor],
    random_rows: Callable[[int], torch.Tensor],
) -> torch.Tensor:
    """Orthonormal rows that span, together with `against`, what `rows` and `against` span.

    A row that depends on the ones before it is replaced by a random one, so the result always
    has as many rows as went in.

    Args:
        rows: `[B, b, N]`, float32 or float64, finite.
        against: blocks `[B, p_i, N]`, all their rows together orthonormal; b + Σ p_i <= N.
        random_rows: gives `[B, count, N]` Gaussian rows for a count.

    Returns:
        `[B, b, N]`, orthonormal to working precision also against the blocks.
    """
    count = rows.shape[1]
    if count == 0:
        return rows
    dependent = 8 * count * torch.finfo(rows.dtype).eps
    rows = unit_rows(rows)
    settled = False
    for _ in range(_MAX_PASSES):
        for block in against:
            rows = rows - rotate(gram(rows, block), block)
        rows = unit_rows(rows)
        basis, factor = torch.linalg.qr(rows.mT)
        weight = factor.diagonal(dim1=1, dim2=2).abs()
        weak = weight <= dependent
        if bool(weak.any()):
            rows = torch.where(weak.unsqueeze(2), unit_rows(random_rows(count)), rows)
            settled = False
            continue
        rows = basis.mT
        # Rows that lost little in this pass carry no more of the other blocks than rounding.
        if settled and bool(weight.min() > 0.5):
            break
        settled = True
    return rows.contiguous()
