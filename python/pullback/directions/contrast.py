"""Vectors that change one part of an output and not the other: by projection, or weighing both."""

from __future__ import annotations

import torch

from pullback.krylov import SVDResult
from pullback.operators import BlockOperator

#: Steps of rounding of the rows up to which nothing is left of a unit vector.
_NOTHING = 8


def projected(
    rows: torch.Tensor, ranks: list[int], outside: SVDResult | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows without their part in the leading right space of another operator, and its norm.

    Args:
        rows: `[B, k, n]`, float64, of norm 1.
        ranks: how many of the rows count, of each sample; the others become zeros.
        outside: the triplets of the other operator; None takes nothing off.

    Returns:
        `[B, k, n]` of norms from 1 down to zero, and `[B, k]`, both float64.
    """
    left, removed = torch.zeros_like(rows), rows.new_zeros(rows.shape[:2])
    for sample, rank in enumerate(ranks):
        own = rows[sample, :rank]
        own = own / own.norm(dim=1, keepdim=True)
        if outside is not None:
            # Rows beyond the numerical rank are arbitrary, and change nothing.
            frame = _span(outside.v[sample, : int(outside.rank[sample])].double(), 0.5)
            removed[sample, :rank] = (own @ frame.mT).norm(dim=1).clamp(max=1)
            for _ in range(2):  # the second time for what rounding left, where little remains
                own = own - (own @ frame.mT) @ frame
        left[sample, :rank] = own
    return left, removed


def weighed(
    operator: BlockOperator,
    sides: tuple[torch.Tensor, torch.Tensor],
    inside: SVDResult,
    outside: SVDResult | None,
    mu: float,
) -> torch.Tensor:
    """The rows v that maximise ‖J_Ω v‖² / (‖J_Ωc v‖² + μ ‖v‖²) in the span of both right spaces.

    Rayleigh–Ritz: J is multiplied with orthonormal rows Q of the span, and the small generalised
    problem (J_Ω Q)ᵀ(J_Ω Q) y = λ ((J_Ωc Q)ᵀ(J_Ωc Q) + μ I) y is solved by Cholesky and SVD.

    Args:
        operator: J, all rows.
        sides: int64 places in its flat output, those of Ω and the others.
        inside: the triplets of J_Ω.
        outside: those of J_Ωc, or None.
        mu: μ as a share of s_1² of J_Ω.

    Returns:
        `[B, k, n]`, float64, of norm 1; zeros beyond the numerical rank of J_Ω.

    Cost: as many products with J as the largest of the spans has dimensions.
    """
    frames = []
    for sample, rank in enumerate(inside.rank.tolist()):
        parts = [inside.v[sample, :rank]]
        if outside is not None:
            parts.append(outside.v[sample, : int(outside.rank[sample])])
        least = _NOTHING * torch.finfo(inside.v.dtype).eps
        frames.append(_span(torch.cat(parts).double(), least))
    most = max(map(len, frames))
    block = torch.stack([torch.nn.functional.pad(q, (0, 0, 0, most - len(q))) for q in frames])
    image = operator.matmat(block.unflatten(2, operator.x_shape)).flatten(2).double()
    found = torch.zeros_like(inside.v, dtype=torch.float64)
    for sample, frame in enumerate(frames):
        gain, leak = (image[sample, : len(frame)].index_select(1, side) for side in sides)
        # In units of s_1, of which μ is a share: squares of what is far from 1 leave the range.
        leak = leak / inside.s[sample, 0].double()
        eye = torch.eye(len(frame), dtype=torch.float64, device=leak.device)
        factor = torch.linalg.cholesky(leak @ leak.mT + mu * eye)
        scaled = torch.linalg.solve_triangular(factor, gain, upper=False)
        turn = torch.linalg.svd(scaled, full_matrices=False).U
        turn = torch.linalg.solve_triangular(factor.mT, turn, upper=True)
        count = int(inside.rank[sample])
        found[sample, :count] = (turn / turn.norm(dim=0)).mT[:count] @ frame
    return found


def units(rows: torch.Tensor, dtype: torch.dtype, least: float) -> torch.Tensor:
    """What is left of unit rows `[B, k, n]`, at norm 1 in a dtype; zeros up to a norm of `least`.

    What is known to a sine of `least` alone says nothing of what is smaller.
    """
    norm = rows.norm(dim=2, keepdim=True)
    left = norm > max(least, _NOTHING * torch.finfo(dtype).eps)
    return torch.where(left, rows / torch.where(left, norm, 1.0), 0.0).to(dtype)


def signed(rows: torch.Tensor) -> torch.Tensor:
    """Rows `[B, k, n]` with their signs fixed: the entry of largest magnitude is positive."""
    largest = rows.gather(2, rows.abs().argmax(2, keepdim=True))
    return torch.where(largest < 0, -rows, rows)


def _span(rows: torch.Tensor, least: float) -> torch.Tensor:
    """Orthonormal rows `[q, n]` that span rows `[r, n]` of norm 1, all float64.

    Args:
        rows: the rows.
        least: singular values up to this are rounding.
    """
    _, s, v = torch.linalg.svd(rows, full_matrices=False)
    return v[s > least]
