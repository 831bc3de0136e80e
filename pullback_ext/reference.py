"""A plain-torch twin of every native operator: the oracle of the tests, and the fallback.

Written for accuracy, not for speed: everything is float64 inside. Same checks and same messages as
the native operators. These functions are differentiable by ordinary torch rules.
"""

from __future__ import annotations

import torch

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def _fail(text: str) -> None:
    raise RuntimeError(text)


def _shape(tensor: torch.Tensor) -> str:
    return "[" + ", ".join(str(size) for size in tensor.shape) + "]"


def _dtype(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def check_gram(a: torch.Tensor, b: torch.Tensor | None = None) -> None:
    """Raises what the native ``gram`` raises on the same bad input.

    Args:
        a: expected [B, k, N], float32, float64, float16 or bfloat16.
        b: expected [B, p, N], dtype and device of ``a``; or None.

    Raises:
        RuntimeError: says what was expected and what came.
    """
    if a.dim() != 3:
        _fail(f"gram: expected a of shape [B, k, N], got {_shape(a)}")
    if a.dtype not in FLOATS:
        _fail(f"gram: expected a of dtype float32, float64, float16 or bfloat16, got {_dtype(a)}")
    if b is None:
        return
    if b.dim() != 3 or b.shape[0] != a.shape[0] or b.shape[2] != a.shape[2]:
        _fail(
            f"gram: expected b of shape [{a.shape[0]}, p, {a.shape[2]}] beside a of shape "
            f"{_shape(a)}, got {_shape(b)}"
        )
    if b.dtype != a.dtype:
        _fail(f"gram: expected b of dtype {_dtype(a)} like a, got {_dtype(b)}")
    if b.device != a.device:
        _fail(f"gram: expected b on {a.device} like a, got {b.device}")


def gram(a: torch.Tensor, b: torch.Tensor | None = None) -> torch.Tensor:
    """Products of all pairs of rows, ``a b^T``, in float64.

    Args:
        a: [B, k, N]; float32, float64, float16 or bfloat16.
        b: [B, p, N], dtype and device of ``a``; ``a`` itself if None.

    Returns:
        [B, k, p], float64; exactly symmetric without ``b``.

    Raises:
        RuntimeError: a shape, dtype or device other than the above.
    """
    check_gram(a, b)
    wide = a.double()
    if b is not None:
        return torch.bmm(wide, b.double().mT)
    full = torch.bmm(wide, wide.mT)
    return full.triu() + full.triu(1).mT
