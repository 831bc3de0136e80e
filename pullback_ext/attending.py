"""Attention with derivative rules for many tangents.

Linearised at a point, attention is a linear map of k tangents that share its weights. Here the rule
of each direction, forward and reverse, is one call of that map for all k tangents
(`attention_tangents`, `attention_cotangents`), which never holds the matrix of scores. torch's fast
kernels have no forward rule (pytorch#98164), and its mathematical form holds k of these matrices.

`_Attention` is the function. Its rules call `_Tangents` and `_Cotangents`, each linear in its
tangents and the other's transpose, whose rules for `vmap` fold tangents into one call. Derivatives
of these with respect to the point, which are second derivatives, are those of `DenseAttention`, the
same maps in torch's functions. They are taken with o and lse as functions of the point, so that
what these two carry themselves does not count.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from pullback_ext import _attention_rules, _ops
from pullback_ext._attention_inputs import Inputs, refusal
from pullback_ext._dense_attention import DenseAttention
from pullback_ext._derivatives import is_asked, refuse_silent_zeros, rule_of_tangents

_attention = _ops.overload("attention")
_attention_tangents = _ops.overload("attention_tangents")
_attention_cotangents = _ops.overload("attention_cotangents")


def _keep(ctx: Any, tensors: Sequence[Any]) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors)
    ctx.save_for_forward(*tensors)


def _tensors_before(inputs: Sequence[Any], index: int) -> int:
    return sum(x is not None for x in inputs[:index])


def _push(f: Callable[..., Any], at: Sequence[Any], tangents: Sequence[Any]) -> Any:
    """The Jacobian of f times tangents, of which some are None.

    By reverse mode twice: a forward derivative inside a rule for one would nest dual levels.
    """
    moving = [i for i, tangent in enumerate(tangents) if tangent is not None]
    of_some, some = _of_some(f, at, moving)
    value, pull = torch.func.vjp(of_some, *some)[:2]
    zeros = torch.utils._pytree.tree_map(torch.zeros_like, value)
    push = torch.func.vjp(pull, zeros)[1]
    return push(tuple(tangents[i] for i in moving))[0]


def _of_some(
    f: Callable[..., Any], at: Sequence[Any], which: Sequence[int]
) -> tuple[Callable[..., Any], list[Any]]:
    """A function of some of the arguments of f, and those."""

    def of_some(*some: Any) -> Any:
        every = list(at)
        for i, value in zip(which, some, strict=True):
            every[i] = value
        return f(*every)

    return of_some, [at[i] for i in which]


class _Tangents(torch.autograd.Function):
    """Attention linearised at a point, of tangents [T, B, H, S, .] of q, k and v or some of them.

    Arguments are those of the operator.
    """

    @staticmethod
    def forward(*args: Any) -> torch.Tensor:
        return _attention_tangents(*args)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:  # noqa: ARG004
        *tensors, ctx.scale, ctx.causal = inputs
        _keep(ctx, tensors)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> torch.Tensor:
        total = None
        with rule_of_tangents(ctx) as (q, k, v, o, lse, dq, dk, dv, bias):
            flags = bias, ctx.scale, ctx.causal
            if any(t is not None for t in tangents[5:8]):
                total = _Tangents.apply(q, k, v, o, lse, *tangents[5:8], *flags)
            if any(t is not None for t in tangents[:3]):

                def f(q: Any, k: Any, v: Any) -> torch.Tensor:
                    return DenseAttention(*flags).tangents(q, k, v, dq, dk, dv)

                second = _push(f, (q, k, v), tangents[:3])
                total = second if total is None else total + second
        return total  # type: ignore[return-value]  # None where o or lse alone had a tangent

    @staticmethod
    def backward(ctx: Any, cotangent: torch.Tensor | None) -> Any:  # type: ignore[override]
        grads: list[torch.Tensor | None] = [None] * 11
        if cotangent is None:
            return tuple(grads)
        q, k, v, o, lse, *given, bias = ctx.saved_tensors
        flags = bias, ctx.scale, ctx.causal
        asked = [
            i not in (3, 4) and is_asked(ctx, i, _tensors_before(ctx.saved_tensors, i))
            for i in range(8)
        ]
        if any(asked[5:]):
            with_kv = asked[6] or asked[7]
            found = _Cotangents.apply(q, k, v, o, lse, cotangent, *flags, with_kv)
            for i in (5, 6, 7):
                grads[i] = found[i - 5] if asked[i] else None
        wanted = [i for i in range(3) if asked[i]]
        if wanted:

            def f(q: Any, k: Any, v: Any) -> torch.Tensor:
                return DenseAttention(*flags).tangents(q, k, v, *given)

            of_some, some = _of_some(f, (q, k, v), wanted)
            for i, grad in zip(wanted, torch.func.vjp(of_some, *some)[1](cotangent), strict=True):
                grads[i] = grad
        return tuple(grads)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Any, Any]:
        return _attention_rules.vmap_tangents(_Tangents.apply, info, in_dims, *args)


class _Cotangents(torch.autograd.Function):
    """The transpose of `_Tangents`, of cotangents g [T, B, H, Sq, e].

    Arguments and results are those of the operator.
    """

    @staticmethod
    def forward(*args: Any) -> tuple[torch.Tensor, ...]:
        return tuple(_attention_cotangents(*args))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
        *tensors, ctx.scale, ctx.causal, ctx.with_kv = inputs
        if not ctx.with_kv:
            ctx.mark_non_differentiable(*output[1:])
        _keep(ctx, tensors)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> tuple[torch.Tensor | None, ...]:
        total: Sequence[torch.Tensor] = ()
        with rule_of_tangents(ctx) as (q, k, v, o, lse, g, bias):
            flags = bias, ctx.scale, ctx.causal
            results = 3 if ctx.with_kv else 1
            if tangents[5] is not None:
                found = _Cotangents.apply(q, k, v, o, lse, tangents[5], *flags, ctx.with_kv)
                total = found[:results]
            if any(t is not None for t in tangents[:3]):

                def f(q: Any, k: Any, v: Any) -> tuple[torch.Tensor, ...]:
                    return DenseAttention(*flags).cotangents(q, k, v, g, with_kv=ctx.with_kv)

                second = _push(f, (q, k, v), tangents[:3])
                total = [x + y for x, y in zip(total, second, strict=True)] if total else second
        return (*total, *[None] * (3 - len(total)))

    @staticmethod
    def backward(ctx: Any, *cotangents: torch.Tensor | None) -> Any:  # type: ignore[override]
        grads: list[torch.Tensor | None] = [None] * 10
        given = [x for x in cotangents[: 3 if ctx.with_kv else 1] if x is not None]
        if not given:
            return tuple(grads)
        q, k, v, o, lse, g, bias = ctx.saved_tensors
        flags = bias, ctx.scale, ctx.causal
        if is_asked(ctx, 5, 5):
            dq, dk, dv = cotangents if ctx.with_kv else (cotangents[0], None, None)
            grads[5] = _Tangents.apply(q, k, v, o, lse, dq, dk, dv, *flags)
        wanted = [i for i in range(3) if is_asked(ctx, i, i)]
        if wanted:

            def f(q: Any, k: Any, v: Any) -> tuple[torch.Tensor, ...]:
                found = DenseAttention(*flags).cotangents(q, k, v, g, with_kv=ctx.with_kv)
                pairs = zip(found, cotangents, strict=False)
                return tuple(x for x, cotangent in pairs if cotangent is not None)

            of_some, some = _of_some(f, (q, k, v), wanted)
            pulled = torch.func.vjp(of_some, *some)[1](tuple(given))
            for i, grad in zip(wanted, pulled, strict=True):
                grads[i] = grad
        return tuple(grads)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Any, Any]:
        return _attention_rules.vmap_cotangents(_Cotangents.apply, info, in_dims, *args)


class _Attention(torch.autograd.Function):
    """Attention, with the arguments and results of the operator; lse has no derivative."""

    @staticmethod
    def forward(*args: Any) -> tuple[torch.Tensor, torch.Tensor]:
        o, lse = _attention(*args)
        return o, lse

    @staticmethod
    def setup_context(
        ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, torch.Tensor]
    ) -> None:
        *tensors, ctx.scale, ctx.causal = inputs
        ctx.mark_non_differentiable(output[1])
        _keep(ctx, (*tensors, *output))

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> tuple[torch.Tensor, None]:
        with rule_of_tangents(ctx) as (q, k, v, bias, o, lse):
            given = [None if t is None else t.unsqueeze(0) for t in tangents[:3]]
            pushed = _Tangents.apply(q, k, v, o, lse, *given, bias, ctx.scale, ctx.causal)
            return pushed.squeeze(0), None

    @staticmethod
    def backward(ctx: Any, cotangent: torch.Tensor | None, _: None) -> Any:  # type: ignore[override]
        grads: list[torch.Tensor | None] = [None] * 6
        if cotangent is None:
            return tuple(grads)
        q, k, v, bias, o, lse = ctx.saved_tensors
        asked = [is_asked(ctx, i, i) for i in range(3)]
        with_kv = asked[1] or asked[2]
        found = _Cotangents.apply(
            q, k, v, o, lse, cotangent.unsqueeze(0), bias, ctx.scale, ctx.causal, with_kv
        )
        for i in range(3):
            grads[i] = found[i].squeeze(0) if asked[i] else None
        return tuple(grads)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Any, Any]:
        return _attention_rules.vmap(_Attention.apply, info, in_dims, *args)


def scaled_dot_product_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """Attention, as ``torch.nn.functional.scaled_dot_product_attention``, for many tangents.

    Differentiable in every mode, by kernels that never hold the matrix of scores: under
    ``torch.func.jvp``, ``vjp``, ``jacfwd``, ``jacrev``, ``linearize``, ``vmap`` of these, and
    ``.backward()``. Under ``vmap(jvp)`` and ``vmap(vjp)`` with one primal for all tangents they go
    through one call of :func:`attention_tangents` or :func:`attention_cotangents`, which computes
    the weights once, and the result for a tangent is the same, to the bit, whatever else is in the
    call. Keys and values that have no tangent, as of text, cost nothing. Derivatives of order two
    and more, with respect to q, k and v and in any mixture of modes, are right, and hold the matrix
    of scores for each tangent.

    Shapes, masks and what they mean are torch's; a query that sees no key gives 0. What all entries
    of a mask's row have in common has no effect, also where it is so large that torch's own sum
    would lose the scores.

    Args:
        query: [..., H, Sq, d] or [Sq, d], any strides; float64, float32, bfloat16 or float16.
        key: [..., Hk, Sk, d] or [Sk, d], dtype of ``query``.
        value: [..., Hk, Sk, e] or [Sk, e], dtype of ``query``. Dimensions before the last two
            broadcast.
        attn_mask: broadcasts to [..., H, Sq, Sk]; bool, True where a key is seen; or added to the
            scores, in float32 or the dtype of ``query``. It has no derivative.
        dropout_p: 0.
        is_causal: whether query i sees the keys j <= i alone; not together with a mask.
        scale: of the products; 1 / sqrt(d) if None.
        enable_gqa: whether Hk may be a divisor of H: head h of queries meets head h Hk // H.

    Returns:
        [..., H, Sq, e] or [Sq, e], dtype and device of ``query``.

    Raises:
        RuntimeError: a shape or dtype other than the above, a dropout, a mask that carries a
            derivative; differentiated in inference mode with torch below 2.12, or traced by
            ``torch.compile(fullgraph=True)``, where derivatives would be silent zeros (without
            ``fullgraph`` it runs as it stands, uncompiled).

    Cost: those of :func:`attention`, :func:`attention_tangents` and :func:`attention_cotangents`.
        Dimensions that broadcast are repeated in memory, heads not. Saved for the backward pass:
        q, k, v, the result, and a number for each of its rows.

    Source: Dao et al., arXiv:2205.14135 (sums over tiles).
    """
    refuse_silent_zeros("scaled_dot_product_attention")
    wrong = refusal(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa)
    if wrong is not None:
        raise RuntimeError(f"scaled_dot_product_attention: {wrong}")
    device = query.device.type
    if query.dtype != torch.float64 and torch.is_autocast_enabled(device):
        lower = torch.get_autocast_dtype(device)
        query, key, value = (x.to(lower) for x in (query, key, value))
        if attn_mask is not None and attn_mask.dtype == torch.float32:
            attn_mask = attn_mask.to(lower)
    dtype = query.dtype
    inputs = Inputs.of(query, key, value, attn_mask, gqa=enable_gqa)
    factor = (query.shape[-1] or 1) ** -0.5 if scale is None else float(scale)
    o, _ = _Attention.apply(inputs.q, inputs.k, inputs.v, inputs.bias, factor, bool(is_causal))
    return o.reshape(inputs.shape).to(dtype)
