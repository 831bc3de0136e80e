"""Calls of the attention operators for ``python -m pullback_ext`` and the tests of the table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch

from pullback_ext import reference
from pullback_ext._case import Case

#: Of the largest entry of a result.
BOUNDS = {torch.float64: 1e-12, torch.float32: 4e-6, torch.float16: 2e-3, torch.bfloat16: 1e-2}


class Primal(NamedTuple):
    """A call's label, bound, and arguments that all operators share; k and v of `key_heads`."""

    label: str
    bound: float
    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    bias: torch.Tensor | None
    causal: bool


def _error(got: Any, want: Any) -> float:
    """Largest difference over the largest entry, of any of the results."""
    if isinstance(got, torch.Tensor):
        got, want = (got,), (want,)
    worst = 0.0
    for x, y in zip(got, want, strict=True):
        if y.numel():
            wide = y.double().abs().max().clamp_min(1e-300)
            worst = max(worst, float((x.double() - y.double()).abs().max() / wide))
    return worst


def _primals(normal: Callable[..., torch.Tensor]) -> Iterator[Primal]:
    shapes = [  # B, H, Hk, Sq, Sk, d, e
        (2, 2, 2, 33, 33, 40, 40),
        (1, 4, 2, 70, 15, 16, 24),
        (1, 2, 1, 130, 77, 64, 64),
        (1, 1, 1, 9, 200, 5, 7),
    ]
    for dtype, bound in BOUNDS.items():
        for i, (batch, heads, key_heads, queries, keys, d, e) in enumerate(shapes):
            q = normal(dtype, batch, queries, heads, d).transpose(1, 2)
            k, v = (normal(dtype, batch, key_heads, keys, width) for width in (d, e))
            bias = normal(dtype, 1, heads, 1, keys) if i == 1 else None
            label = f"{str(dtype).removeprefix('torch.')} {[batch, heads, queries, keys, d]}"
            yield Primal(label, bound, q, k, v, bias, causal=i == 2)


def _normal(device: torch.device, seed: int) -> Callable[..., torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return lambda dtype, *shape: torch.randn(*shape, generator=generator).to(device, dtype)


def _scale(q: torch.Tensor) -> float:
    return float(q.shape[3] ** -0.5)


def attention(device: torch.device) -> Iterator[Case]:
    """Of every dtype: strides, grouped heads, a bias, causal."""
    for p in _primals(_normal(device, 5)):
        args = (p.q, p.k, p.v, p.bias, _scale(p.q), p.causal)
        yield Case(p.label, args, _error, p.bound)


def _attended(p: Primal) -> tuple[torch.Tensor, torch.Tensor]:
    return reference.attention(p.q, p.k, p.v, p.bias, _scale(p.q), p.causal)


def attention_tangents(device: torch.device) -> Iterator[Case]:
    """Likewise, with tangents of q, of k and v, and of all."""
    normal = _normal(device, 6)
    for i, p in enumerate(_primals(normal)):
        count = (3, 1, 2)[i % 3]
        dq, dk, dv = (normal(x.dtype, count, *x.shape) for x in (p.q, p.k, p.v))
        some = ((dq, dk, dv), (dq, None, None), (None, dk, dv))[i % 3]
        args = (p.q, p.k, p.v, *_attended(p), *some, p.bias, _scale(p.q), p.causal)
        yield Case(p.label, args, _error, p.bound)


def attention_cotangents(device: torch.device) -> Iterator[Case]:
    """Likewise, with and without those of k and v."""
    normal = _normal(device, 7)
    for i, p in enumerate(_primals(normal)):
        o, lse = _attended(p)
        g = normal(o.dtype, (3, 1, 2)[i % 3], *o.shape)
        args = (p.q, p.k, p.v, o, lse, g, p.bias, _scale(p.q), p.causal, i % 3 != 1)
        yield Case(p.label, args, _error, p.bound)
