"""Gates with derivative rules for many tangents: SiLU, GELU and the gated GELU of transformers.

A gate acts on every entry by itself, so that its derivative is a tensor of coefficients, one per
entry of the primal. Where k tangents share a primal, as under `vmap(jvp)` and `vmap(vjp)`, the
coefficients are computed once, and each of the tangents is multiplied by them: one multiplication
that broadcasts, which reads and writes the tangents once. No kernel moves fewer bytes, hence there
is no native operator. torch's own rules compute the coefficients anew for every tangent (SiLU), or
in several multiplications.

The rules are made of functions that have derivatives themselves: derivatives of any order are
right, in any mixture of modes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from pullback_ext._derivatives import refuse_silent_zeros, rule_of_tangents


def _ones(x: torch.Tensor) -> torch.Tensor:
    """Ones in the shape of x that take no memory, so that what comes has the layout of x."""
    return torch.ones((), dtype=x.dtype, device=x.device).expand(x.shape)


class _SiluSlope(torch.autograd.Function):
    """The derivative of SiLU at every entry, by one kernel. torch has no rule for that kernel."""

    @staticmethod
    def forward(x: torch.Tensor) -> torch.Tensor:
        return torch.ops.aten.silu_backward(_ones(x), x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:  # noqa: ARG004
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def jvp(ctx: Any, tangent: torch.Tensor) -> torch.Tensor:
        with rule_of_tangents(ctx) as (x,):
            return tangent * _silu_curvature(x)

    @staticmethod
    def backward(ctx: Any, cotangent: torch.Tensor | None) -> torch.Tensor | None:  # type: ignore[override]
        return None if cotangent is None else cotangent * _silu_curvature(*ctx.saved_tensors)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int], x: torch.Tensor) -> tuple[torch.Tensor, int]:  # noqa: ARG004
        return _SiluSlope.apply(x), in_dims[0]


def _silu_curvature(x: torch.Tensor) -> torch.Tensor:
    """The second derivative of SiLU, s (1 - s) (2 + x (1 - 2 s)), in torch's own functions."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    s = torch.sigmoid(wide)
    return (s * torch.sigmoid(-wide) * (2 + wide * (1 - 2 * s))).to(x.dtype)


def silu_slope(x: torch.Tensor) -> torch.Tensor:
    """The derivative of SiLU at every entry of x, `[...]`; differentiable itself."""
    return _SiluSlope.apply(x)


def _gelu_slope(x: torch.Tensor, approximate: str) -> torch.Tensor:
    return torch.ops.aten.gelu_backward(_ones(x), x, approximate=approximate)


class _Gate(torch.autograd.Function):
    """A function of each entry by itself, and its slope."""

    @staticmethod
    def forward(
        x: torch.Tensor,
        value: Callable[[torch.Tensor], torch.Tensor],
        slope: Callable[[torch.Tensor], torch.Tensor],  # noqa: ARG004  (of the derivatives)
    ) -> torch.Tensor:
        return value(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:  # noqa: ARG004
        x, _, ctx.slope = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x)
        ctx.save_for_forward(x)

    @staticmethod
    def jvp(ctx: Any, tangent: torch.Tensor, *_: None) -> torch.Tensor:
        with rule_of_tangents(ctx) as (x,):
            return tangent * ctx.slope(x)

    @staticmethod
    def backward(ctx: Any, cotangent: torch.Tensor | None) -> Any:  # type: ignore[override]
        if cotangent is None:
            return None, None, None
        return cotangent * ctx.slope(*ctx.saved_tensors), None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int, None, None], *inputs: Any) -> tuple[torch.Tensor, int]:  # noqa: ARG004
        return _Gate.apply(*inputs), in_dims[0]


class _Geglu(torch.autograd.Function):
    """The product a gelu(g) of the halves (a, g) of the last dimension."""

    @staticmethod
    def forward(x: torch.Tensor) -> torch.Tensor:
        a, g = x.chunk(2, dim=-1)
        return a * torch.ops.aten.gelu(g)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:  # noqa: ARG004
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def jvp(ctx: Any, tangent: torch.Tensor) -> torch.Tensor:
        with rule_of_tangents(ctx) as (x,):
            of_a, of_g = _geglu_slopes(x)
            da, dg = tangent.chunk(2, dim=-1)
            return torch.addcmul(da * of_a, dg, of_g)

    @staticmethod
    def backward(ctx: Any, cotangent: torch.Tensor | None) -> torch.Tensor | None:  # type: ignore[override]
        if cotangent is None:
            return None
        # Both halves by one multiplication.
        slopes = torch.stack(_geglu_slopes(*ctx.saved_tensors), dim=-2)
        return (cotangent.unsqueeze(-2) * slopes).reshape(ctx.saved_tensors[0].shape)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int], x: torch.Tensor) -> tuple[torch.Tensor, int]:  # noqa: ARG004
        return _Geglu.apply(x.movedim(in_dims[0], 0)), 0


def _geglu_slopes(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The derivatives with respect to a and to g, `[..., L]` each."""
    a, g = x.chunk(2, dim=-1)
    return torch.ops.aten.gelu(g), a * _gelu_slope(g, "none")


def silu(x: torch.Tensor) -> torch.Tensor:
    """SiLU, x sigmoid(x), as ``torch.nn.functional.silu``, for many tangents at once.

    Values are torch's, bit for bit. Under ``vmap(jvp)``, ``vmap(vjp)`` and alike with one primal
    for all tangents the derivative is computed once, and multiplies all of them. Derivatives of any
    order are right, in any mixture of modes.

    Args:
        x: [...], any strides; float64, float32, bfloat16 or float16; any device.

    Returns:
        [...], dtype and device of ``x``; cotangents have the layout that they come in.

    Raises:
        RuntimeError: differentiated in inference mode with torch below 2.12, or traced by
            ``torch.compile(fullgraph=True)``, where derivatives would be silent zeros (without
            ``fullgraph`` it runs as it stands, uncompiled).

    Cost: of a block of tangents, one read and one write, and one pass over the primal.

    Source: Elfwing et al. 2018, arXiv:1702.03118.
    """
    refuse_silent_zeros("silu")
    return _Gate.apply(x, torch.ops.aten.silu, silu_slope)


def gelu(x: torch.Tensor, approximate: str = "none") -> torch.Tensor:
    """GELU, x Phi(x), as ``torch.nn.functional.gelu``, for many tangents at once.

    What :func:`silu` says of values, derivatives and layouts holds here too.

    Args:
        x: [...], any strides; float64, float32, bfloat16 or float16; any device.
        approximate: ``"none"``, Phi by the error function; or ``"tanh"``.

    Returns:
        [...], dtype and device of ``x``.

    Raises:
        RuntimeError: another ``approximate``; or as :func:`silu`.

    Cost: of a block of tangents, one read and one write, and one pass over the primal.

    Source: Hendrycks and Gimpel 2016, arXiv:1606.08415.
    """
    refuse_silent_zeros("gelu")
    value = partial(torch.ops.aten.gelu, approximate=approximate)
    return _Gate.apply(x, value, partial(_gelu_slope, approximate=approximate))


def geglu(x: torch.Tensor) -> torch.Tensor:
    """Gated GELU, a gelu(g) of the halves (a, g) of the last dimension, for many tangents at once.

    The gate of the feed-forward layers of diffusion transformers, after their projection. What
    :func:`silu` says of derivatives holds here too.

    Args:
        x: [..., 2 L], any strides; float64, float32, bfloat16 or float16; any device.

    Returns:
        [..., L], dtype and device of ``x``.

    Raises:
        ValueError: a last dimension of odd size, or none.
        RuntimeError: as :func:`silu`.

    Cost: of a block of k tangents, forward, k 2 L entries are read and k L are written, and k L
        written and read once more; in reverse k L are read and k 2 L are written.

    Source: Shazeer 2020, arXiv:2002.05202.
    """
    refuse_silent_zeros("geglu")
    if x.dim() == 0 or x.shape[-1] % 2:
        raise ValueError(
            f"geglu: expected a last dimension of even size, the halves (a, g), got shape "
            f"{tuple(x.shape)}. Concatenate them: torch.cat([a, g], dim=-1)."
        )
    return _Geglu.apply(x)
