"""From the arguments of torch's attention to those of the operators, and what they do not take."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch.autograd import forward_ad

from pullback_ext import reference

#: A mask's row is shifted where its largest entry is beyond: what is near to that differs from it
#: by no rounding, and what is not has no weight.
_LARGE = 64.0


def _text(x: torch.Tensor) -> str:
    return f"{str(x.dtype).removeprefix('torch.')} {list(x.shape)} on {x.device}"


def _broadcast(*sizes: tuple[int, ...]) -> tuple[int, ...] | None:
    try:
        return tuple(torch.broadcast_shapes(*sizes))
    except RuntimeError:
        return None


def _has_derivative(x: torch.Tensor) -> bool:
    """Whether a tensor is differentiated, at any level of nested transforms."""
    while True:
        if x.requires_grad and torch.is_grad_enabled():
            return True
        batched = torch._C._functorch.is_batchedtensor(x)  # what it holds may have a tangent
        if not batched and forward_ad.unpack_dual(x).tangent is not None:
            return True
        if not torch._C._functorch.is_functorch_wrapped_tensor(x):
            return False
        x = torch._C._functorch.get_unwrapped(x)


def refusal(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,  # noqa: ARG001  (torch's signature)
    enable_gqa: bool = False,
) -> str | None:
    """What was expected, came, and is to be done of a call that is not taken; None of others."""
    if dropout_p > 0:
        return (
            f"expected dropout_p of 0, got {dropout_p}. Set it to 0, as .eval() does, or use "
            "torch.nn.functional.scaled_dot_product_attention under "
            "sdpa_kernel(SDPBackend.MATH), which has rules for it."
        )
    named = {"query": query, "key": key, "value": value}
    for name, x in named.items():
        if x.dtype not in reference.FLOATS or x.layout != torch.strided or x.dim() < 2:
            return (
                f"expected {name} [..., S, d], dense, of dtype float64, float32, bfloat16 or "
                f"float16, got {_text(x)}, {x.layout}. Convert it."
            )
        if x.dtype != query.dtype or x.device != query.device:
            return (
                f"expected {name} of the dtype and on the device of query, {_text(query)}, got "
                f"{_text(x)}. Convert one of them."
            )
    sizes = ", ".join(f"{name} {list(x.shape)}" for name, x in named.items())
    if key.shape[-1] != query.shape[-1] or key.shape[-2] != value.shape[-2]:
        return (
            f"expected query [..., Sq, d], key [..., Sk, d] and value [..., Sk, e], got {sizes}. "
            "Are keys and values of the same tokens, and queries and keys of one width?"
        )
    lead = _lead(query, key, value, gqa=enable_gqa)
    if lead is None:
        if enable_gqa:
            return (
                "expected query [..., H, Sq, d], key and value [..., Hk, Sk, .] with Hk that "
                f"divides H, got {sizes}. Repeat heads, or leave enable_gqa off."
            )
        return (
            f"expected dimensions before the last two that broadcast, got {sizes}. Where there "
            "are fewer heads of keys than of queries, set enable_gqa=True."
        )
    if attn_mask is None:
        return None
    scores = (*lead, query.shape[-2], key.shape[-2])
    if is_causal:
        return (
            "expected attn_mask or is_causal, got both. Put the causal mask into attn_mask: "
            f"torch.ones({scores[-2]}, {scores[-1]}, dtype=torch.bool).tril()."
        )
    if attn_mask.dtype not in (torch.bool, torch.float32, query.dtype):
        return (
            f"expected attn_mask of dtype bool, float32 or that of query, {query.dtype}, got "
            f"{attn_mask.dtype}. Convert it."
        )
    if attn_mask.device != query.device or _broadcast(scores, tuple(attn_mask.shape)) != scores:
        return (
            f"expected attn_mask on {query.device} that broadcasts to the scores, {list(scores)}, "
            f"got {_text(attn_mask)}. Insert dimensions of size 1 where it has none."
        )
    if _has_derivative(attn_mask):
        return (
            "expected attn_mask without a derivative, got one that requires grad or carries a "
            "tangent. Detach it; to learn it, use torch.nn.functional.scaled_dot_product_attention "
            "under sdpa_kernel(SDPBackend.MATH), which has rules for it."
        )
    return None


def _lead(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, gqa: bool
) -> tuple[int, ...] | None:
    """Sizes of the result before its last two; None where there are none."""
    if not gqa:
        return _broadcast(*(tuple(x.shape[:-2]) for x in (query, key, value)))
    if min(query.dim(), key.dim(), value.dim()) < 3:
        return None
    heads = query.shape[-3]
    if any(x.shape[-3] == 0 or heads % x.shape[-3] for x in (key, value)):
        return None
    batch = _broadcast(*(tuple(x.shape[:-3]) for x in (query, key, value)))
    return None if batch is None else (*batch, heads)


class Inputs(NamedTuple):
    """Arguments of the operator.

    Attributes:
        q: [B, H, Sq, d].
        k: [B, Hk, Sk, d].
        v: [B, Hk, Sk, e].
        bias: four sizes, each 1 or that of [B, H, Sq, Sk]; or None.
        shape: of the result.
    """

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    bias: torch.Tensor | None
    shape: tuple[int, ...]

    @classmethod
    def of(
        cls,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attn_mask: torch.Tensor | None,
        *,
        gqa: bool,
    ) -> Inputs:
        """Those of a call that `refusal` does not refuse."""
        lead = _lead(query, key, value, gqa=gqa)
        assert lead is not None
        batch, heads = lead[:-1], lead[-1] if lead else 1
        if attn_mask is not None and attn_mask.is_floating_point():
            # A mask of more digits keeps them: the scores it is added to get as many.
            wide = torch.promote_types(query.dtype, attn_mask.dtype)
            query, key, value = (x.to(wide) for x in (query, key, value))
        of_keys = {x.shape[-3] if x.dim() > 2 else 1 for x in (key, value)}
        shared = of_keys.pop() if len(of_keys) == 1 and (gqa or of_keys == {1}) else heads
        if gqa and of_keys:  # keys and values of different numbers of heads
            key, value = (x.repeat_interleave(heads // x.shape[-3], -3) for x in (key, value))
        bias = None if attn_mask is None or heads == 0 else bias_of(attn_mask, query.dtype, batch)
        return cls(
            _four(query, batch, heads),
            _four(key, batch, shared),
            _four(value, batch, shared),
            bias,
            (*lead, query.shape[-2], value.shape[-1]),
        )


def _four(x: torch.Tensor, batch: tuple[int, ...], heads: int) -> torch.Tensor:
    """[B, heads, S, .]; no copy unless dimensions of the batch broadcast."""
    whole = x.expand(*batch, heads, *x.shape[-2:])
    sizes = (math.prod(batch), heads) if heads else (0, 1)  # the operators take no samples of none
    return whole.reshape(*sizes, *x.shape[-2:])


def bias_of(mask: torch.Tensor, dtype: torch.dtype, batch: tuple[int, ...]) -> torch.Tensor:
    """What is added to the scores, in four sizes that broadcast."""
    if mask.dtype == torch.bool:
        bias = torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, float("-inf"))
    else:
        bias = mask.to(dtype)
        if bias.shape[-1:].numel():
            most = bias.amax(-1, keepdim=True) if bias.dim() else bias
            large = (most.abs() > _LARGE) & most.isfinite()
            bias = bias - most.where(large, torch.zeros_like(most))
    bias = bias.reshape((1,) * (len(batch) + 3 - bias.dim()) + tuple(bias.shape))
    *before, heads, queries, keys = bias.shape
    if math.prod(before) == 1:
        return bias.reshape(1, heads, queries, keys)
    return bias.expand(*batch, heads, queries, keys).reshape(-1, heads, queries, keys)
