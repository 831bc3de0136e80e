"""Modules of diffusers that compute by themselves what `pullback_ext` has a rule for.

Importing it registers them: where derivatives are taken, they run the functions of `pullback_ext`,
whose rules serve all tangents at once.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.activations import GEGLU
from diffusers.models.normalization import RMSNorm

from pullback_ext import geglu, rms_norm
from pullback_ext.intercept import register

_HALVES = (torch.float16, torch.bfloat16)


def _rms_norm(module: Any, hidden_states: torch.Tensor) -> torch.Tensor:
    """Normalises `[..., L]`; the result has the dtype that diffusers gives it."""
    x, weight = hidden_states, module.weight
    bias = getattr(module, "bias", None)  # which older releases do not have
    dtype = x.dtype
    if weight is not None:
        dtype = (
            weight.dtype if weight.dtype in _HALVES else torch.promote_types(dtype, weight.dtype)
        )
        wide = torch.promote_types(x.dtype, weight.dtype)
        x, weight = x.to(wide), weight.to(wide)
    if weight is None or weight.shape == x.shape[-1:]:
        x = rms_norm(x, x.shape[-1:], weight, module.eps).to(dtype)
    else:  # diffusers normalises the last dimension, whatever the weight's shape
        x = (rms_norm(x, x.shape[-1:], None, module.eps) * weight).to(dtype)
    return x if weight is None or bias is None else x + bias


def _geglu(module: Any, hidden_states: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    """Projects `[..., n]` to `[..., 2 L]`, and gates; diffusers ignores further arguments too."""
    return geglu(module.proj(hidden_states))


register(RMSNorm, _rms_norm)
register(GEGLU, _geglu)
