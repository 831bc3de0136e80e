"""How far the leading Ritz vectors are from the true leading space, as a theorem says it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

import pullback_ext


@dataclass(frozen=True)
class Bound:
    """What is known of the leading space of each of B samples; all `[B]`, float64.

    Attributes:
        sine: bound on the sine of its largest principal angle to the true space, at most 1.
        residual_norm: ‖A V − V Θ‖₂ of the leading Ritz vectors.
        least: the bound that rounding alone would leave with these gaps; inf where a value that is
            not among the leading ones may still overtake the last of them.
        reach: `[B, r]`, by how much noise in the product of a leading vector tilts it at most; 0
            where there is no such vector.
    """

    sine: torch.Tensor
    residual_norm: torch.Tensor
    least: torch.Tensor
    reach: torch.Tensor


def angle_bound(
    values: torch.Tensor,
    residual: torch.Tensor,
    ranks: torch.Tensor,
    noise: torch.Tensor,
    outside: torch.Tensor,
) -> Bound:
    """The bound on the sine of the leading space.

    In the basis of the r leading Ritz vectors V, the others Y, the pending rows W and the rest A is

        ⎡ Θ            Rᵀ ⎤        ⎡ Θ_Y  Sᵀ   0 ⎤
        ⎣ R            A₂ ⎦,  A₂ = ⎢ S          ⎥,   R and S in the rows of W only,
                                   ⎣ 0      A₃   ⎦

    and A₃ ≤ μ, its largest eigenvalue outside the basis, is given. The leading space is
    {v + Xv : v in V} with X Θ − A₂ X = R − X Rᵀ X, if A₂ < θ_r. Let Dᵢ = θᵢ − A₂. By Schur's
    complement its inverse is diag((θᵢ − Θ_Y)⁻¹, 0) + [B; I] M̃⁻¹ [B; I]ᵀ with B = (θᵢ − Θ_Y)⁻¹ Sᵀ
    and M̃ ≥ M = (θᵢ − μ) I − S (θᵢ − Θ_Y)⁻¹ Sᵀ, whence

        ‖Dᵢ⁻¹ rᵢ‖² ≤ gᵢ rᵢᵀM⁻¹rᵢ,   ‖Dᵢ⁻¹‖ ≤ hᵢ = 1/(θᵢ − θ_{r+1}) + gᵢ,   gᵢ = λ_max(M⁻¹(I + BᵀB)).

    With η = ‖R‖₂, ‖X‖₂ ≤ q = η h_r (Davis and Kahan's tan 2θ theorem) and therefore
    ‖X‖_F ≤ (Σᵢ gᵢ rᵢᵀM⁻¹rᵢ)^½ / (1 − q²). The sine is at most the smaller of the two.

    Args:
        values: Ritz values `[B, d]`, descending.
        residual: `[B, d, b]`, residuals of all Ritz vectors in coordinates of the pending rows.
        ranks: `[B]`, int64, r per sample.
        noise: `[B]`, what rounding may add to the norm of any residual.
        outside: `[B]`, μ, a bound on xᵀAx of every unit vector x orthogonal to the basis.
    """
    place = ranks.to(values.device)
    count = max(int(ranks.max()), 1)
    inside = torch.arange(values.shape[1], device=values.device) < place.unsqueeze(1)
    leading, kept = values[:, :count], inside[:, :count]
    rows = residual[:, :count].masked_fill(~kept.unsqueeze(2), 0.0)
    # A block without columns stands for an exhausted space.
    norm = noise.new_zeros(len(rows))
    if rows.shape[2]:
        norm = pullback_ext.squared_singular_values(rows)[:, 0].sqrt()

    # Whatever is not among the leading values is taken to be as large as rounding allows.
    following = values.masked_fill(inside, -math.inf) + noise.unsqueeze(1)
    gaps = leading.unsqueeze(2) - following.unsqueeze(1)  # [B, r, d]
    narrowest = gaps.amin(2)
    separate = narrowest > 0
    inverse = torch.where(separate.unsqueeze(2), 1 / gaps, 0.0)
    coupling = residual.masked_fill(inside.unsqueeze(2), 0.0)
    reach = torch.where(separate, 1 / narrowest, math.inf)  # hᵢ
    if residual.shape[2]:
        amount, growth, definite = _schur(
            leading - (outside + noise).unsqueeze(1), inverse, coupling, rows
        )
        reach = torch.where(definite, reach + growth, math.inf)
        by_row = (growth * amount).sqrt()
    else:
        by_row = torch.zeros_like(reach)
    reach, by_row = reach.masked_fill(~kept, 0.0), by_row.masked_fill(~kept, 0.0)

    last = reach.gather(1, (place - 1).clamp_min(0).unsqueeze(1)).squeeze(1)
    rounding = torch.linalg.vector_norm(noise.unsqueeze(1) * reach, dim=1)
    simple = norm * last + rounding
    fine = (torch.linalg.vector_norm(by_row, dim=1) + rounding) / (1 - simple.clamp_max(1.0) ** 2)
    sine = torch.minimum(simple, fine).nan_to_num(nan=math.inf).clamp_max(1.0)
    sine = torch.where(place == 0, 0.0, sine)
    return Bound(sine, norm, rounding.nan_to_num(nan=math.inf), reach)


def _schur(
    distance: torch.Tensor, inverse: torch.Tensor, coupling: torch.Tensor, rows: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """rᵢᵀM⁻¹rᵢ, gᵢ and whether M is positive definite, each `[B, r]`.

    Args:
        distance: θᵢ − μ, `[B, r]`.
        inverse: 1 / (θᵢ − θⱼ), `[B, r, d]`, 0 for leading θⱼ.
        coupling: S, `[B, d, b]`, 0 for leading θⱼ.
        rows: rᵢ, `[B, r, b]`.
    """
    eye = torch.eye(rows.shape[2], dtype=rows.dtype, device=rows.device)
    # In units of θᵢ − μ, which may be of any size.
    unit = torch.where(distance > 0, distance, 1.0)
    first = torch.einsum("brd,bdp,bdq->brpq", inverse / unit.unsqueeze(2), coupling, coupling)
    second = torch.einsum("brd,bdp,bdq->brpq", inverse.square(), coupling, coupling)
    lower, info = torch.linalg.cholesky_ex(eye - first)
    definite = (info == 0) & (distance > 0)
    lower = torch.where(definite[..., None, None], lower, eye)
    half = torch.linalg.solve_triangular(lower, rows.unsqueeze(3), upper=False).squeeze(3)
    across = torch.linalg.solve_triangular(lower, eye + second, upper=False)
    across = torch.linalg.solve_triangular(lower, across.mT, upper=False)
    growth = torch.linalg.eigvalsh((across + across.mT) / 2)[..., -1]
    return half.square().sum(2) / unit, growth / unit, definite
