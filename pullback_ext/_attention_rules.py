"""What the attention operators answer besides their kernels."""

from __future__ import annotations

from typing import Any

import torch

from pullback_ext import reference

Dims = tuple[int | None, ...]


def fake(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    bias: torch.Tensor | None,
    scale: float,  # noqa: ARG001  (the schema's)
    causal: bool,  # noqa: ARG001  (the schema's)
) -> tuple[torch.Tensor, torch.Tensor]:
    """Shape, dtype and device of o and lse."""
    reference.check_attention(q, k, v, bias)
    rows = q.shape[:3]
    return (
        q.new_empty((*rows, v.shape[3])),
        q.new_empty(rows, dtype=torch.float64),
    )


def fake_tangents(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    o: torch.Tensor,
    lse: torch.Tensor,
    dq: torch.Tensor | None,
    dk: torch.Tensor | None,
    dv: torch.Tensor | None,
    bias: torch.Tensor | None,
    scale: float,  # noqa: ARG001  (the schema's)
    causal: bool,  # noqa: ARG001  (the schema's)
) -> torch.Tensor:
    """The tangents of o."""
    count = reference.check_attention_tangents(q, k, v, o, lse, dq, dk, dv, bias)
    return q.new_empty((count, *o.shape))


def fake_cotangents(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    o: torch.Tensor,
    lse: torch.Tensor,
    g: torch.Tensor,
    bias: torch.Tensor | None,
    scale: float,  # noqa: ARG001  (the schema's)
    causal: bool,  # noqa: ARG001  (the schema's)
    with_kv: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The cotangents of q, k and v."""
    reference.check_attention_cotangents(q, k, v, o, lse, g, bias)
    count = g.shape[0]
    dq = q.new_empty((count, *q.shape))
    if not with_kv:
        return dq, q.new_empty(0), q.new_empty(0)
    return dq, q.new_empty((count, *k.shape)), q.new_empty((count, *v.shape))


def _batch_of(x: torch.Tensor, dim: int | None) -> int:
    """B of [B, ..] with or without the mapped dimension."""
    return (x if dim is None else x.select(dim, 0)).shape[0]


def _fold(x: torch.Tensor, dim: int | None, at: int, sizes: tuple[int, int]) -> torch.Tensor:
    """The mapped dimension, put before dimension `at`, and that one together.

    Either may be missing or 1: they are then expanded to `sizes`.
    """
    x = x.unsqueeze(at) if dim is None else x.movedim(dim, at)
    shape = [-1] * x.dim()
    shape[at : at + 2] = sizes
    return x.expand(shape).flatten(at, at + 1)


def _fold_primal(
    count: int,
    batch: int,
    tensors: tuple[torch.Tensor, ...],
    dims: Dims,
    bias: torch.Tensor | None,
    bias_dim: int | None,
) -> tuple[list[torch.Tensor], torch.Tensor | None]:
    """Tensors [B, ..] and the bias, with the mapped dimension, V = `count` long, in the batch."""
    folded = [_fold(x, dim, 0, (count, batch)) for x, dim in zip(tensors, dims, strict=True)]
    if bias is not None and (bias_dim is not None or bias.shape[0] != 1):
        bias = _fold(bias, bias_dim, 0, (count, batch))
    return folded, bias


def vmap(
    op: Any,
    info: Any,
    in_dims: Dims,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    bias: torch.Tensor | None,
    *flags: Any,
) -> tuple[Any, Any]:
    """Folds the mapped dimension into the batch; a sample's result does not depend on its batch."""
    shape = (info.batch_size, _batch_of(q, in_dims[0]))
    primal, bias = _fold_primal(*shape, (q, k, v), in_dims[:3], bias, in_dims[3])
    results = op(*primal, bias, *flags)
    return tuple(x.unflatten(0, shape) for x in results), (0, 0)


def vmap_tangents(
    op: Any,
    info: Any,
    in_dims: Dims,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    o: torch.Tensor,
    lse: torch.Tensor,
    dq: torch.Tensor | None,
    dk: torch.Tensor | None,
    dv: torch.Tensor | None,
    bias: torch.Tensor | None,
    *flags: Any,
) -> tuple[torch.Tensor, int]:
    """Folds the mapped dimension into the tangents where they alone are mapped, else into B."""
    primal: tuple[torch.Tensor, ...] = (q, k, v, o, lse)
    tangents, batch_dims = (dq, dk, dv), (*in_dims[:5], in_dims[8])
    given = [(x, d) for x, d in zip(tangents, in_dims[5:8], strict=True) if x is not None]
    alone = all(dim is None for dim in batch_dims)
    outer = (x if d is None else x.select(d, 0) for x, d in given)
    first = next(outer)  # [T, B, ..]
    shape = (info.batch_size, first.shape[0] if alone else first.shape[1])
    at = 0 if alone else 1
    folded = [
        None if x is None else _fold(x, d, at, shape)
        for x, d in zip(tangents, in_dims[5:8], strict=True)
    ]
    if not alone:
        moved, bias = _fold_primal(*shape, primal, in_dims[:5], bias, in_dims[8])
        primal = tuple(moved)
    return op(*primal, *folded, bias, *flags).unflatten(at, shape), at


def vmap_cotangents(
    op: Any,
    info: Any,
    in_dims: Dims,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    o: torch.Tensor,
    lse: torch.Tensor,
    g: torch.Tensor,
    bias: torch.Tensor | None,
    scale: float,
    causal: bool,
    with_kv: bool,
) -> tuple[Any, Any]:
    """Folds the mapped dimension into the cotangents where they alone are mapped, else into B."""
    primal: tuple[torch.Tensor, ...] = (q, k, v, o, lse)
    alone = all(dim is None for dim in (*in_dims[:5], in_dims[6]))
    one = g if in_dims[5] is None else g.select(in_dims[5], 0)  # [T, B, ..]
    at = 0 if alone else 1
    shape = (info.batch_size, one.shape[at])
    g = _fold(g, in_dims[5], at, shape)
    if not alone:
        moved, bias = _fold_primal(*shape, primal, in_dims[:5], bias, in_dims[6])
        primal = tuple(moved)
    results = op(*primal, g, bias, scale, causal, with_kv)
    unfolded = [results[0].unflatten(at, shape)]
    if not with_kv:
        return (unfolded[0], *results[1:]), (at, None, None)
    return (unfolded[0], *(x.unflatten(at, shape) for x in results[1:])), (at, at, at)
