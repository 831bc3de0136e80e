"""Attention's tangents and cotangents as mathematics: made of torch's functions, with the scores.

They are differentiable in all but the mask, and stand for the kernels where these are themselves
differentiated.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pullback_ext.reference import working_dtype


@dataclass(frozen=True)
class DenseAttention:
    """Softmax(scale q k^T + bias) v linearised at a point; shapes are those of the operators.

    Attributes:
        bias: of the scores, or None.
        scale: of the products.
        causal: whether query i sees the keys j <= i alone.
    """

    bias: torch.Tensor | None
    scale: float
    causal: bool

    def _weights(self, q: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        """[B, H, Sq, Sk]; rows that see nothing are 0, and so are their derivatives."""
        s = self.scale * (q @ keys.mT)
        if self.bias is not None:
            s = s + self.bias.to(s.dtype)
        if self.causal:
            after = torch.ones(s.shape[-2:], dtype=torch.bool, device=s.device).triu(1)
            s = s.masked_fill(after, float("-inf"))
        blind = (s == float("-inf")).all(-1, keepdim=True)
        return torch.softmax(s.masked_fill(blind, 0.0), -1).masked_fill(blind, 0.0)

    def tangents(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        dq: torch.Tensor | None,
        dk: torch.Tensor | None,
        dv: torch.Tensor | None,
    ) -> torch.Tensor:
        """[T, B, H, Sq, e], as `attention_tangents`."""
        dtype, heads = working_dtype(q.dtype), q.shape[-3]
        wide = q.to(dtype)
        keys, values = (_per_head(x.to(dtype), heads) for x in (k, v))
        p = self._weights(wide, keys)
        terms = []
        if dq is not None:
            terms.append(dq.to(dtype) @ keys.mT)
        if dk is not None:
            terms.append(wide @ _per_head(dk.to(dtype), heads).mT)
        out = []
        if terms:
            h = p * (self.scale * sum(terms[1:], terms[0]))
            out.append(h @ values - h.sum(-1, keepdim=True) * (p @ values))
        if dv is not None:
            out.append(p @ _per_head(dv.to(dtype), heads))
        return sum(out[1:], out[0]).to(q.dtype)

    def cotangents(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, g: torch.Tensor, *, with_kv: bool
    ) -> tuple[torch.Tensor, ...]:
        """dq, and dk and dv or not, as `attention_cotangents`."""
        dtype, heads = working_dtype(q.dtype), q.shape[-3]
        wide, u = q.to(dtype), g.to(dtype)
        keys, values = (_per_head(x.to(dtype), heads) for x in (k, v))
        p = self._weights(wide, keys)
        of_p = u @ values.mT - (u * (p @ values)).sum(-1, keepdim=True)
        ds = self.scale * p * of_p
        dq = (ds @ keys).to(q.dtype)
        if not with_kv:
            return (dq,)
        share = k.shape[-3], heads // k.shape[-3]
        dk, dv = (x.unflatten(-3, share).sum(-3).to(q.dtype) for x in (ds.mT @ wide, p.mT @ u))
        return dq, dk, dv


def _per_head(x: torch.Tensor, heads: int) -> torch.Tensor:
    """[.., Hk, S, d] as [.., H, S, d]: each head of keys serves H / Hk of queries."""
    share = heads // x.shape[-3]
    if share == 1:
        return x
    sizes = [-1] * (x.dim() + 1)
    sizes[-3] = share
    return x.unsqueeze(-3).expand(sizes).flatten(-4, -3)
