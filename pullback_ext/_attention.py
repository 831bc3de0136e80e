"""The documented functions of attention; `pullback_ext` gives them."""

from __future__ import annotations

from typing import NamedTuple

import torch

from pullback_ext import _ops

_attention = _ops.overload("attention")
_attention_tangents = _ops.overload("attention_tangents")
_attention_cotangents = _ops.overload("attention_cotangents")


class Attended(NamedTuple):
    """What :func:`attention` returns.

    Attributes:
        o: [B, H, Sq, e], dtype of ``q``; contiguous.
        lse: [B, H, Sq], natural logarithms of the sums that the softmax divides by; float64, since
            weights are computed from it again; -inf for a query that sees no key.
    """

    o: torch.Tensor
    lse: torch.Tensor


class AttentionCotangents(NamedTuple):
    """What :func:`attention_cotangents` returns; dtype of ``q``, contiguous.

    Attributes:
        dq: [T, B, H, Sq, d].
        dk: [T, B, Hk, Sk, d], or [0] where it was not asked for.
        dv: [T, B, Hk, Sk, e], or [0] likewise.
    """

    dq: torch.Tensor
    dk: torch.Tensor
    dv: torch.Tensor


def _scale_of(scale: float | None, q: torch.Tensor) -> float:
    return (q.shape[-1] or 1) ** -0.5 if scale is None else float(scale)


def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    scale: float | None = None,
    causal: bool = False,
) -> Attended:
    """Attention, ``softmax(scale q k^T + bias) v``, and what its derivatives need of it.

    Keys are gone through in tiles, and no matrix of Sq x Sk is ever in memory. Softmax and sums are
    float32, for float64 float64; weights below 1e-38 (float64: 1e-307) count as 0. Of N(0, 1)
    entries float32 comes out within 2e-6 of the largest entry. A query whose logits are all -inf
    gives 0, as in torch. A sample's result is the same, to the bit, in any batch, layout of q, k
    and v, and number of threads (not on another device or instruction set).

    There is no derivative: see :func:`attention_tangents` and :func:`attention_cotangents`.
    ``torch.func.vmap`` folds the mapped dimension into the batch.

    Args:
        q: [B, H, Sq, d], any strides; float32, float64, float16 or bfloat16; CPU or CUDA.
        k: [B, Hk, Sk, d], dtype of ``q``. Hk divides H: head h of ``q`` meets head h Hk // H.
        v: [B, Hk, Sk, e], dtype of ``q``.
        bias: four sizes, each 1 or that of [B, H, Sq, Sk], any strides, dtype of ``q``; -inf hides
            a key from a query. None for zeros.
        scale: of the products; 1 / sqrt(d) if None.
        causal: whether query i sees the keys j <= i alone, counted from the first of each.

    Returns:
        o, lse: see :class:`Attended`.

    Raises:
        RuntimeError: a shape, dtype or device other than the above, or an input that carries a
            derivative.

    Cost: B H Sq Sk (d + e) multiply-adds, half as many if causal, and B H Sq Sk exponentials.

    Source: Dao et al., arXiv:2205.14135 (sums over tiles).
    """
    return Attended(*_attention(q, k, v, bias, _scale_of(scale, q), causal))


def attention_tangents(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    o: torch.Tensor,
    lse: torch.Tensor,
    dq: torch.Tensor | None = None,
    dk: torch.Tensor | None = None,
    dv: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    *,
    scale: float | None = None,
    causal: bool = False,
) -> torch.Tensor:
    """Tangents through attention, linearised at one point.

    With P = exp(scale q k^T + bias - lse), which all T tangents share,

        S = scale (dq k^T + q dk^T),  H = P (S - r),  do = H v + P dv - rowsum(H) o

    for any r of a row; it is S of the key of greatest weight, so that nothing is lost where that
    weight is nearly 1 and do nearly 0. A missing tangent counts as zeros and costs nothing: of
    cross-attention on a fixed text dq alone is given. No matrix of Sq x Sk is ever in memory.
    Rounding and bits are as for :func:`attention`; o of 16 bits is summed anew, so that an offset
    that all rows of ``v`` have in common does not matter. A tangent's result does not depend on T.

    There is no derivative; ``torch.func.vmap`` folds the mapped dimension into T where tangents
    alone are mapped, else into B.

    Args:
        q: [B, H, Sq, d], as :func:`attention` has it.
        k: [B, Hk, Sk, d], likewise.
        v: [B, Hk, Sk, e], likewise.
        o: [B, H, Sq, e], what :func:`attention` gave.
        lse: [B, H, Sq], likewise.
        dq: [T, B, H, Sq, d], any strides, dtype of ``q``; or None.
        dk: [T, B, Hk, Sk, d], likewise.
        dv: [T, B, Hk, Sk, e], likewise; one of the three is needed.
        bias: [B, H, Sq, Sk], or 1 for any of these, as :func:`attention` has it; or None.
        scale: likewise.
        causal: likewise.

    Returns:
        [T, B, H, Sq, e], dtype of ``q``, contiguous.

    Raises:
        RuntimeError: a shape, dtype or device other than the above, or an input that carries a
            derivative.

    Cost: per tangent B H Sq Sk (d + e) multiply-adds for dq, d more for dk and e more for dv; P
        once for many tangents.
    """
    return _attention_tangents(q, k, v, o, lse, dq, dk, dv, bias, _scale_of(scale, q), causal)


def attention_cotangents(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    o: torch.Tensor,
    lse: torch.Tensor,
    g: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    scale: float | None = None,
    causal: bool = False,
    with_kv: bool = True,
) -> AttentionCotangents:
    """Cotangents through attention: the transpose of :func:`attention_tangents`.

    With P as there, which all T cotangents share,

        dS = scale P (g v^T - rowsum(g o)),  dq = dS k,  dk = dS^T q,  dv = P^T g.

    Rounding, bits, ``torch.func.vmap`` and memory are as there.

    Args:
        q: [B, H, Sq, d], as :func:`attention` has it.
        k: [B, Hk, Sk, d], likewise.
        v: [B, Hk, Sk, e], likewise.
        o: [B, H, Sq, e], what :func:`attention` gave.
        lse: [B, H, Sq], likewise.
        g: [T, B, H, Sq, e], any strides, dtype of ``q``.
        bias: [B, H, Sq, Sk], or 1 for any of these, as :func:`attention` has it; or None.
        scale: likewise.
        causal: likewise.
        with_kv: whether dk and dv are wanted.

    Returns:
        dq, dk, dv: see :class:`AttentionCotangents`.

    Raises:
        RuntimeError: a shape, dtype or device other than the above, or an input that carries a
            derivative.

    Cost: per cotangent B H Sq Sk (d + e) multiply-adds for dq, and twice as many again for dk and
        dv; P once for many cotangents.
    """
    return AttentionCotangents(
        *_attention_cotangents(q, k, v, o, lse, g, bias, _scale_of(scale, q), causal, with_kv)
    )
