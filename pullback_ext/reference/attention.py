"""The twins of the attention operators: dense, and in float64."""

from __future__ import annotations

import torch

from pullback_ext.reference.checks import FLOATS, dtype_text, fail, shape_text


def _check_like(op: str, name: str, x: torch.Tensor, q: torch.Tensor, dtype: torch.dtype) -> None:
    if x.dtype != dtype:
        fail(
            f"{op}: expected {name} of dtype {str(dtype).removeprefix('torch.')} beside q of dtype "
            f"{dtype_text(q)}, got {dtype_text(x)}"
        )
    if x.device != q.device:
        fail(f"{op}: expected {name} on {q.device} like q, got {x.device}")


def _check_shape(op: str, name: str, letters: str, x: torch.Tensor, sizes: tuple[int, ...]) -> None:
    if tuple(x.shape) != sizes:
        text = ", ".join(str(size) for size in sizes)
        fail(f"{op}: expected {name} of shape [{letters}], here [{text}], got {shape_text(x)}")


def _check_primal(
    op: str,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    bias: torch.Tensor | None,
) -> None:
    if q.dim() != 4:
        fail(f"{op}: expected q of shape [B, H, Sq, d], got {shape_text(q)}")
    if q.dtype not in FLOATS:
        fail(
            f"{op}: expected q of dtype float32, float64, float16 or bfloat16, got {dtype_text(q)}"
        )
    batch, heads, queries, depth = q.shape
    if k.dim() != 4 or k.shape[0] != batch or k.shape[3] != depth:
        fail(
            f"{op}: expected k of shape [B, Hk, Sk, d] beside q of shape {shape_text(q)}, got "
            f"{shape_text(k)}"
        )
    if k.shape[1] == 0 or heads % k.shape[1]:
        fail(
            f"{op}: expected a number of heads of k that divides that of q, {heads}, got "
            f"{k.shape[1]}"
        )
    if v.dim() != 4 or v.shape[:3] != k.shape[:3]:
        fail(
            f"{op}: expected v of shape [B, Hk, Sk, e] beside k of shape {shape_text(k)}, got "
            f"{shape_text(v)}"
        )
    if bias is not None and (
        bias.dim() != 4
        or any(
            size not in (1, full)
            for size, full in zip(bias.shape, (batch, heads, queries, k.shape[2]), strict=True)
        )
    ):
        text = ", ".join(str(size) for size in (batch, heads, queries, k.shape[2]))
        fail(
            f"{op}: expected bias of four sizes, each 1 or that of [B, H, Sq, Sk], here [{text}], "
            f"got {shape_text(bias)}"
        )
    for name, x in (("k", k), ("v", v), ("bias", bias)):
        if x is not None:
            _check_like(op, name, x, q, q.dtype)


def _check_result(
    op: str, q: torch.Tensor, v: torch.Tensor, o: torch.Tensor, lse: torch.Tensor
) -> None:
    batch, heads, queries, _ = q.shape
    _check_shape(op, "o", "B, H, Sq, e", o, (batch, heads, queries, v.shape[3]))
    _check_shape(op, "lse", "B, H, Sq", lse, (batch, heads, queries))
    _check_like(op, "o", o, q, q.dtype)
    _check_like(op, "lse", lse, q, torch.float64)


def check_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor | None = None
) -> None:
    """Raises what the native ``attention`` raises on the same bad input.

    Args:
        q: expected [B, H, Sq, d]; float32, float64, float16 or bfloat16.
        k: expected [B, Hk, Sk, d], dtype of ``q``; Hk divides H.
        v: expected [B, Hk, Sk, e], dtype of ``q``.
        bias: expected four sizes, each 1 or that of [B, H, Sq, Sk], dtype of ``q``; or None.

    Raises:
        RuntimeError: says what was expected and what came.
    """
    _check_primal("attention", q, k, v, bias)


def check_attention_tangents(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    o: torch.Tensor,
    lse: torch.Tensor,
    dq: torch.Tensor | None,
    dk: torch.Tensor | None,
    dv: torch.Tensor | None,
    bias: torch.Tensor | None,
) -> int:
    """Raises what the native ``attention_tangents`` raises on the same bad input.

    Args:
        q: as for :func:`check_attention`.
        k: likewise.
        v: likewise.
        o: expected [B, H, Sq, e], dtype of ``q``.
        lse: expected [B, H, Sq], float64.
        dq: expected [T, B, H, Sq, d], dtype of ``q``, or None.
        dk: expected [T, B, Hk, Sk, d], likewise.
        dv: expected [T, B, Hk, Sk, e], likewise; not all three None.
        bias: as for :func:`check_attention`.

    Returns:
        T.

    Raises:
        RuntimeError: says what was expected and what came.
    """
    op = "attention_tangents"
    _check_primal(op, q, k, v, bias)
    _check_result(op, q, v, o, lse)
    count = None
    for name, letters, x, of in (
        ("dq", "T, B, H, Sq, d", dq, q),
        ("dk", "T, B, Hk, Sk, d", dk, k),
        ("dv", "T, B, Hk, Sk, e", dv, v),
    ):
        if x is None:
            continue
        if count is None:
            count = x.shape[0] if x.dim() else 0
        _check_shape(op, name, letters, x, (count, *of.shape))
        _check_like(op, name, x, q, q.dtype)
    if count is None:
        fail(f"{op}: expected dq, dk or dv, got none of them")
    return count


def check_attention_cotangents(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    o: torch.Tensor,
    lse: torch.Tensor,
    g: torch.Tensor,
    bias: torch.Tensor | None,
) -> None:
    """Raises what the native ``attention_cotangents`` raises on the same bad input.

    Args:
        q: as for :func:`check_attention_tangents`.
        k: likewise.
        v: likewise.
        o: likewise.
        lse: likewise.
        g: expected [T, B, H, Sq, e], dtype of ``q``.
        bias: as for :func:`check_attention`.

    Raises:
        RuntimeError: says what was expected and what came.
    """
    op = "attention_cotangents"
    _check_primal(op, q, k, v, bias)
    _check_result(op, q, v, o, lse)
    _check_shape(op, "g", "T, B, H, Sq, e", g, (g.shape[0] if g.dim() else 0, *o.shape))
    _check_like(op, "g", g, q, q.dtype)


def _per_head(x: torch.Tensor, heads: int) -> torch.Tensor:
    """[.., Hk, S, d] as [.., H, S, d] in float64: each head of keys serves H / Hk of queries."""
    return x.double().repeat_interleave(heads // x.shape[-3], dim=-3)


def _logits(
    q: torch.Tensor, k: torch.Tensor, bias: torch.Tensor | None, scale: float, causal: bool
) -> torch.Tensor:
    """[B, H, Sq, Sk]: what is exponentiated."""
    s = scale * (q.double() @ _per_head(k, q.shape[1]).mT)
    if bias is not None:
        s = s + bias.double()
    if causal:
        after = torch.ones(s.shape[-2:], dtype=torch.bool, device=s.device).triu(1)
        s = s.masked_fill(after, float("-inf"))
    return s


def _weights(s: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The softmax of the rows and the logarithms of their sums; a row of -inf has weights 0."""
    lse = torch.logsumexp(s, dim=3)
    masked = (lse == float("-inf")).unsqueeze(3)
    return torch.exp(s - lse.unsqueeze(3)).masked_fill(masked, 0), lse


def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    bias: torch.Tensor | None,
    scale: float,
    causal: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention and the logarithms of its row sums, as :func:`pullback_ext.attention`."""
    check_attention(q, k, v, bias)
    p, lse = _weights(_logits(q, k, bias, scale, causal))
    o = p @ _per_head(v, q.shape[1])
    return o.to(q.dtype).contiguous(), lse.contiguous()


def attention_tangents(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    o: torch.Tensor,
    lse: torch.Tensor,
    dq: torch.Tensor | None,
    dk: torch.Tensor | None,
    dv: torch.Tensor | None,
    bias: torch.Tensor | None,
    scale: float,
    causal: bool,
) -> torch.Tensor:
    """Tangents through attention, as :func:`pullback_ext.attention_tangents`.

    ``o`` and ``lse`` are computed again, without their rounding.
    """
    count = check_attention_tangents(q, k, v, o, lse, dq, dk, dv, bias)
    heads = q.shape[1]
    keys, values = _per_head(k, heads), _per_head(v, heads)
    p, _ = _weights(_logits(q, k, bias, scale, causal))
    exact = p @ values
    out = q.new_zeros((count, *o.shape), dtype=torch.float64)
    ds = None
    if dq is not None:
        ds = dq.double() @ keys.mT
    if dk is not None:
        turned = q.double() @ _per_head(dk, heads).mT
        ds = turned if ds is None else ds + turned
    if ds is not None:
        h = p * (scale * ds)
        out = out + h @ values - h.sum(4, keepdim=True) * exact
    if dv is not None:
        out = out + p @ _per_head(dv, heads)
    return out.to(q.dtype).contiguous()


def attention_cotangents(
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
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Cotangents through attention, as :func:`pullback_ext.attention_cotangents`.

    ``o`` and ``lse`` are computed again, without their rounding.
    """
    check_attention_cotangents(q, k, v, o, lse, g, bias)
    heads = q.shape[1]
    p, _ = _weights(_logits(q, k, bias, scale, causal))
    values, wide = _per_head(v, heads), g.double()
    dp = wide @ values.mT
    ds = scale * p * (dp - (wide * (p @ values)).sum(4, keepdim=True))
    dq = (ds @ _per_head(k, heads)).to(q.dtype).contiguous()
    if not with_kv:
        return dq, q.new_empty(0), q.new_empty(0)

    def together(x: torch.Tensor) -> torch.Tensor:
        """The sum over the heads of queries that a head of keys serves."""
        return x.unflatten(2, (k.shape[1], heads // k.shape[1])).sum(3).to(q.dtype).contiguous()

    return dq, together(ds.mT @ q.double()), together(p.mT @ wide)
