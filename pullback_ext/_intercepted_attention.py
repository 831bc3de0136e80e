"""What attention becomes where `intercept` sees a call of torch's."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

from pullback_ext import _ops, attending
from pullback_ext._attention_inputs import bias_of, refusal

#: One function; the latter two are as exported programs call it.
ATTENTIONS = (
    F.scaled_dot_product_attention,
    torch.ops.aten.scaled_dot_product_attention,
    torch.ops.aten.scaled_dot_product_attention.default,
)

#: Entries of the scores of a sample, H Sq Sk, from which our rules are faster than torch's.
_WORTHWHILE = 32768


def mathematical(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """What torch computes under `sdpa_kernel(MATH)`, without that setting of the whole process."""
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        shown = torch.zeros_like(attn_mask, dtype=query.dtype)
        attn_mask = shown.masked_fill(attn_mask.logical_not(), float("-inf"))
    found, _ = torch.ops.aten._scaled_dot_product_attention_math(
        query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
    )
    return found


def with_rules(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *args: Any, **kwargs: Any
) -> torch.Tensor:
    """Attention in a form that can be differentiated in any mode."""
    tensors = [x for x in (*args, *kwargs.values()) if isinstance(x, torch.Tensor)]
    plain = (torch.Tensor, nn.Parameter, FakeTensor)
    ours = (
        all(type(x) in plain for x in (query, key, value, *tensors))
        and refusal(query, key, value, *args, **kwargs) is None
        and _scores(query, key) >= _WORTHWHILE
        and _ops.has_kernel("attention", query.device.type)
    )
    chosen = attending.scaled_dot_product_attention if ours else mathematical
    return chosen(query, key, value, *args, **kwargs)


def _scores(query: torch.Tensor, key: torch.Tensor) -> int:
    """Of a sample, whatever the number of samples, so that it is no matter of that."""
    heads = query.shape[-3] if query.dim() > 3 else 1
    return heads * query.shape[-2] * key.shape[-2]


def native(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor | None:
    """The native operator's answer, below autograd; None where torch's own form is to be taken."""
    heads = query.shape[-3:-2], key.shape[-3:-2], value.shape[-3:-2]
    if (
        query.dim() != 4 or key.dim() != 4 or value.dim() != 4
        or not query.shape[0] == key.shape[0] == value.shape[0]
        or heads[1] != heads[2] or (heads[0] != heads[1] and not enable_gqa)
        or not query.dtype == key.dtype == value.dtype
        or not query.is_floating_point()
        or _scores(query, key) < _WORTHWHILE
        or dropout_p > 0 or (is_causal and attn_mask is not None)
        or 0 in (*query.shape, *key.shape, *value.shape)
        or not _ops.has_kernel("attention", query.device.type)
    ):  # fmt: skip
        return None
    bias = None
    if attn_mask is not None:
        known = attn_mask.dtype in (torch.bool, query.dtype)
        if attn_mask.requires_grad or attn_mask.dim() > 4 or not known:
            return None
        bias = bias_of(attn_mask, query.dtype, query.shape[:1])
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    with torch._C._AutoDispatchBelowAutograd():
        o, _ = _ops.overload("attention")(query, key, value, bias, factor, is_causal)
    # Autograd begins anew here, so that it goes on to see functions with rules of their own.
    return o.requires_grad_(query.requires_grad or key.requires_grad or value.requires_grad)
