"""Frames: orthonormal rows that span a subspace."""

from __future__ import annotations

import torch

import pullback_ext

#: Rows that `pullback_ext.orthonormalize` takes.
_MOST_ROWS = 256
#: A frame's rows are taken for dependent where what is left of one is below this share of its norm.
_DEPENDENT = {torch.float64: 1e-12}
_DEPENDENT_ELSE = 1e-5


def frame(rows: torch.Tensor) -> torch.Tensor:
    """Orthonormal rows with the span of given rows, in float64.

    Args:
        rows: `[..., k, N]`, in any floating dtype, linearly independent, k at most N.

    Returns:
        `[..., k, N]`, float64, on the device of the rows. Orthonormal rows come back as they are
        up to rounding, in their order and with their signs.

    Raises:
        TypeError: they are no floating tensor.
        ValueError: they are not finite, more than N, or linearly dependent.

    Cost: a QR decomposition in float64.
    """
    check_rows("rows", rows)
    wide = rows.double()
    norms = wide.norm(dim=-1, keepdim=True)
    scaled = wide / torch.where(norms > 0, norms, 1)
    q, r = torch.linalg.qr(scaled.mT)
    diagonal = r.diagonal(dim1=-2, dim2=-1)
    _check_independent(torch.where(norms.squeeze(-1) > 0, diagonal.abs(), 0), rows.dtype)
    return (q * torch.where(diagonal < 0, -1.0, 1.0).unsqueeze(-2)).mT.contiguous()


def quick_frames(rows: torch.Tensor) -> torch.Tensor:
    """As `frame`, orthonormal to 1e-7 and ten times as fast: of rows `[S, k, N]`, in float32."""
    if rows.shape[1] > _MOST_ROWS:
        return frame(rows).float()
    wide = rows.double()
    q = pullback_ext.orthonormalize(wide).q
    norms = wide.norm(dim=-1)
    _check_independent((q * wide).sum(-1) / torch.where(norms > 0, norms, 1), rows.dtype)
    return q.float()


def _check_independent(left: torch.Tensor, dtype: torch.dtype) -> None:
    """Raise where next to nothing is left of a row beside those before it: shares `[..., k]`."""
    least = _DEPENDENT.get(dtype, _DEPENDENT_ELSE)
    if bool((left <= least).any()):
        where = torch.nonzero(left <= least)[0].tolist()
        at = f" of frame {where[:-1]}" if len(where) > 1 else ""
        raise ValueError(
            f"Expected linearly independent rows, and row {where[-1]}{at} lies in the span of "
            "those before it. A basis knows its numerical rank: take its first `rank` rows."
        )


def check_rows(name: str, rows: torch.Tensor) -> None:
    """Raise unless rows are `[..., k, N]`, floating, finite, with 1 <= k <= N."""
    if not isinstance(rows, torch.Tensor) or not rows.is_floating_point():
        kind = rows.dtype if isinstance(rows, torch.Tensor) else type(rows).__name__
        raise TypeError(f"Expected {name} as a tensor of floating numbers, got {kind}.")
    if rows.dim() < 2 or not 1 <= rows.shape[-2] <= rows.shape[-1]:
        raise ValueError(
            f"Expected {name} of shape [..., k, N] with k from 1 to N, got {list(rows.shape)}."
        )
    if not bool(torch.isfinite(rows).all()):
        raise ValueError(f"Expected finite {name}, got NaN or infinity.")


def check_pair(a: torch.Tensor, b: torch.Tensor, *, same_rank: bool = False) -> None:
    """Raise unless two stacks of frames lie in one space, on one device, and broadcast."""
    check_rows("a", a)
    check_rows("b", b)
    if a.shape[-1] != b.shape[-1]:
        raise ValueError(
            f"Expected subspaces of one space, got rows of {a.shape[-1]} and {b.shape[-1]} entries."
        )
    if a.device != b.device:
        raise ValueError(f"Expected both on one device, got {a.device} and {b.device}.")
    if same_rank and a.shape[-2] != b.shape[-2]:
        raise ValueError(
            f"Expected subspaces of one dimension, got {a.shape[-2]} and {b.shape[-2]} rows. "
            "Take as many leading rows of the larger one."
        )
    try:
        torch.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    except RuntimeError:
        raise ValueError(
            f"Expected batches that broadcast, got {list(a.shape[:-2])} and {list(b.shape[:-2])}."
        ) from None
