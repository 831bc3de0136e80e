"""The twin of ``normalize_tangents``."""

from __future__ import annotations

import torch

from pullback_ext.reference.checks import FLOATS, dtype_text, fail, shape_text, working_dtype

_OP = "normalize_tangents"


def check_normalize_tangents(
    t: torch.Tensor,
    normalized: torch.Tensor,
    scale: torch.Tensor,
    gain: torch.Tensor | None = None,
) -> None:
    """Raises what the native ``normalize_tangents`` raises on the same bad input.

    Args:
        t: expected [k, B, G, Cg, P]; float32, float64, float16 or bfloat16.
        normalized: expected [B, G, Cg, P]; float64 for a float64 ``t``, else float32.
        scale: expected [B, G], dtype of ``normalized``.
        gain: expected four sizes, each that of ``normalized`` or 1, and its dtype; or None.

    Raises:
        RuntimeError: says what was expected and what came.
    """
    if t.dim() != 5:
        fail(f"{_OP}: expected t of shape [k, B, G, Cg, P], got {shape_text(t)}")
    if t.dtype not in FLOATS:
        fail(
            f"{_OP}: expected t of dtype float32, float64, float16 or bfloat16, got {dtype_text(t)}"
        )
    if normalized.shape != t.shape[1:]:
        fail(
            f"{_OP}: expected normalized of shape [B, G, Cg, P] beside t of shape {shape_text(t)}, "
            f"got {shape_text(normalized)}"
        )
    if scale.shape != t.shape[1:3]:
        fail(
            f"{_OP}: expected scale of shape [B, G] beside t of shape {shape_text(t)}, got "
            f"{shape_text(scale)}"
        )
    if gain is not None and (
        gain.dim() != 4
        or any(size not in (1, full) for size, full in zip(gain.shape, t.shape[1:], strict=True))
    ):
        fail(
            f"{_OP}: expected gain of four sizes, each 1 or that of normalized, "
            f"{shape_text(normalized)}, got {shape_text(gain)}"
        )
    work = str(working_dtype(t.dtype)).removeprefix("torch.")
    for name, x in (("normalized", normalized), ("scale", scale), ("gain", gain)):
        if x is None:
            continue
        if dtype_text(x) != work:
            fail(
                f"{_OP}: expected {name} of dtype {work} beside t of dtype {dtype_text(t)}, got "
                f"{dtype_text(x)}"
            )
        if x.device != t.device:
            fail(f"{_OP}: expected {name} on {t.device} like t, got {x.device}")


def is_dense(x: torch.Tensor) -> bool:
    """Whether the entries fill one piece of memory, in any order and each once."""
    expected = 1
    for stride, size in sorted(zip(x.stride(), x.shape, strict=True)):
        if size != 1:
            if stride != expected:
                return False
            expected *= size
    return True


def normalize_tangents(
    t: torch.Tensor,
    normalized: torch.Tensor,
    scale: torch.Tensor,
    gain: torch.Tensor | None = None,
    centered: bool = True,
    transposed: bool = False,
) -> torch.Tensor:
    """Tangents through a normalisation layer, or its transpose, in float64.

    Args:
        t: [k, B, G, Cg, P]; float32, float64, float16 or bfloat16.
        normalized: [B, G, Cg, P]; float64 for a float64 ``t``, else float32.
        scale: [B, G], dtype of ``normalized``.
        gain: [B, G, Cg, P], or 1 for any of these sizes; dtype of ``normalized``; 1 if None.
        centered: whether the layer subtracts the mean.
        transposed: whether the transpose is applied.

    Returns:
        [k, B, G, Cg, P], the dtype of ``t``, as :func:`pullback_ext.normalize_tangents` describes
        it.

    Raises:
        RuntimeError: a shape, dtype or device other than the above.
    """
    check_normalize_tangents(t, normalized, scale, gain)
    z, xh = t.double(), normalized.double()
    if gain is not None and transposed:
        z = z * gain
    projected = z - xh * (z * xh).mean((3, 4), keepdim=True)
    if centered:
        projected = projected - z.mean((3, 4), keepdim=True)
    out = scale[:, :, None, None] * projected
    if gain is not None and not transposed:
        out = out * gain
    out = out.to(t.dtype)
    if not is_dense(t):
        return out.contiguous()
    order = sorted(range(5), key=t.stride, reverse=True)
    return out.permute(order).contiguous().permute([order.index(i) for i in range(5)])
