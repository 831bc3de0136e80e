"""What ``normalize_tangents`` answers besides its kernels."""

from __future__ import annotations

from typing import Any

import torch

from pullback_ext import reference


def fake(
    t: torch.Tensor,
    normalized: torch.Tensor,
    scale: torch.Tensor,
    gain: torch.Tensor | None = None,
    centered: bool = True,  # noqa: ARG001  (the schema's)
    transposed: bool = False,  # noqa: ARG001  (the schema's)
) -> torch.Tensor:
    """The result's shape, dtype, device and strides."""
    reference.check_normalize_tangents(t, normalized, scale, gain)
    return torch.empty_like(t) if reference.is_dense(t) else t.new_empty(t.shape)


def vmap(
    op: Any,
    info: Any,
    in_dims: tuple[int | None, ...],
    t: torch.Tensor,
    normalized: torch.Tensor,
    scale: torch.Tensor,
    gain: torch.Tensor | None = None,
    *flags: bool,
) -> tuple[torch.Tensor, int]:
    """Folds the mapped dimension, V long, into the tangents where they alone are mapped.

    The primal's tensors are then read once for all. Else it is folded into the batch. A tangent's
    result depends on neither, so either gives the bits of a loop.
    """
    t_dim, normalized_dim, scale_dim, gain_dim = (*in_dims, None)[:4]
    count = info.batch_size
    if t_dim is not None and normalized_dim is scale_dim is gain_dim is None:
        folded = t.movedim(t_dim, 0)
        out = op(folded.flatten(0, 1), normalized, scale, gain, *flags)
        return out.unflatten(0, folded.shape[:2]), 0

    def fold(x: torch.Tensor, dim: int | None, at: int, batch: int) -> torch.Tensor:
        """V and B, which is dimension `at` of the unmapped tensor and may be 1, as one."""
        x = x.unsqueeze(at) if dim is None else x.movedim(dim, at)
        sizes = [-1] * x.dim()
        sizes[at : at + 2] = count, batch
        return x.expand(sizes).flatten(at, at + 1)

    batch = (t if t_dim is None else t.select(t_dim, 0)).shape[1]
    if gain is not None and (gain_dim is not None or gain.shape[0] != 1):
        gain = fold(gain, gain_dim, 0, batch)
    out = op(
        fold(t, t_dim, 1, batch),
        fold(normalized, normalized_dim, 0, batch),
        fold(scale, scale_dim, 0, batch),
        gain,
        *flags,
    )
    return out.unflatten(1, (count, batch)), 1
