"""Normalisation layers with derivative rules for many tangents.

Linearised at a point, group, layer and RMS normalisation are one linear map, of k tangents that
share the primal's statistics,

    t -> scale gain P(t),    P(z) = z - mean(z) - xh mean(z xh),    xh = scale (x - mean(x)),

without the means of z and x for RMS; and P is symmetric, so that the transpose is z = gain t and
scale P(z). SiLU of it makes gain a tensor of full size. Here the rule of each function, forward and
reverse, is one call of that map for all k tangents (`normalize_tangents`), where torch's own rules
are decomposed into 24 to 42 kernels. Values are torch's, bit for bit.

`_Normalize` is the function. Its rules call `_Tangents`, which is linear in its first argument, and
whose rule for `vmap` folds tangents into one call. Derivatives of that with respect to the point,
which are second derivatives, are those of `Norm.linearized`, the same map in torch's functions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from pullback_ext import _ops
from pullback_ext._derivatives import is_asked, refuse_silent_zeros, rule_of_tangents
from pullback_ext._norm import Norm, Point, working

_by_kernel = _ops.overload("normalize_tangents")


class _Tangents(torch.autograd.Function):
    """A normalisation linearised at a point, or the transpose, of tangents [k, *x.shape]."""

    @staticmethod
    def forward(
        t: torch.Tensor,
        x: torch.Tensor,
        weight: torch.Tensor | None,
        bias: torch.Tensor | None,
        norm: Norm,
        transposed: bool,
    ) -> torch.Tensor:
        xh, scale = norm.statistics_by_kernel(x)
        gain = norm.gain(xh, weight, bias)
        blocks = t.reshape(len(t), *xh.shape)
        product = _by_kernel(blocks, xh, scale, gain, norm.centered, transposed)
        return product.reshape(t.shape)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:  # noqa: ARG004
        *tensors, ctx.norm, ctx.transposed = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def jvp(ctx: Any, dt: torch.Tensor | None, *tangents: Any) -> torch.Tensor:
        total = None
        with rule_of_tangents(ctx) as (t, *point):
            if dt is not None:
                total = _Tangents.apply(dt, *point, ctx.norm, ctx.transposed)
            moving = [i for i in range(3) if tangents[i] is not None]
            if moving:
                f, at = _of_some(ctx.norm, t, point, moving, ctx.transposed)
                # Reverse twice: a forward derivative inside a rule for one would nest dual levels.
                pull = torch.func.vjp(f, *at)[1]
                push = torch.func.vjp(pull, torch.zeros_like(t))[1]
                (second,) = push(tuple(tangents[i] for i in moving))
                total = second if total is None else total + second
        assert total is not None  # torch calls where there is a tangent
        return total

    @staticmethod
    def backward(ctx: Any, cotangent: torch.Tensor | None) -> Any:  # type: ignore[override]
        grads: list[torch.Tensor | None] = [None] * 6
        if cotangent is None:
            return tuple(grads)
        t, *point = ctx.saved_tensors
        if is_asked(ctx, 0, 0):
            grads[0] = _Tangents.apply(cotangent, *point, ctx.norm, not ctx.transposed)
        present = [i for i in range(3) if point[i] is not None]
        wanted = [i for i in present if is_asked(ctx, i + 1, present.index(i) + 1)]
        if wanted:
            f, at = _of_some(ctx.norm, t, point, wanted, ctx.transposed)
            pull = torch.func.vjp(f, *at)[1]
            for i, grad in zip(wanted, pull(cotangent.to(t.dtype)), strict=True):
                grads[i + 1] = grad
        return tuple(grads)

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[int | None, ...],
        t: torch.Tensor,
        x: torch.Tensor,
        weight: torch.Tensor | None,
        bias: torch.Tensor | None,
        norm: Norm,
        transposed: bool,
    ) -> tuple[torch.Tensor, int]:
        size = info.batch_size
        if in_dims[2] is not None or in_dims[3] is not None:  # a point of its own for each weight

            def linearized(*tensors: Any) -> torch.Tensor:
                return norm.linearized(*tensors, transposed=transposed)

            return torch.vmap(linearized, in_dims=in_dims[:4])(t, x, weight, bias), 0
        if in_dims[1] is None:
            assert in_dims[0] is not None
            every = t.movedim(in_dims[0], 0).flatten(0, 1)
            product = _Tangents.apply(every, x, weight, bias, norm, transposed)
            return product.unflatten(0, (size, -1)), 0
        # [k, V, *shape]
        t = t.unsqueeze(1) if in_dims[0] is None else t.movedim(in_dims[0], 1)
        t = norm.folded(t.expand(-1, size, *t.shape[2:]), 1)
        x = norm.folded(x.movedim(in_dims[1], 0), 0)
        product = _Tangents.apply(t, x, weight, bias, norm, transposed)
        return norm.unfolded(product, 1, size), 1


def _of_some(
    norm: Norm, t: torch.Tensor, point: Point, which: list[int], transposed: bool
) -> tuple[Callable[..., torch.Tensor], list[torch.Tensor]]:
    """The linear map as a function of some of x, weight and bias, and those."""

    def f(*some: torch.Tensor) -> torch.Tensor:
        every = list(point)
        for i, value in zip(which, some, strict=True):
            every[i] = value
        return norm.linearized(t, *every, transposed=transposed)

    return f, [point[i] for i in which]


class _Normalize(torch.autograd.Function):
    """A normalisation layer."""

    @staticmethod
    def forward(
        x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None, norm: Norm
    ) -> torch.Tensor:
        return norm.value(x, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        *point, ctx.norm = inputs
        ctx.dtype = output.dtype  # autocast may have chosen another one than that of x
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*point)
        ctx.save_for_forward(*point)

    @staticmethod
    def jvp(ctx: Any, dx: Any, dw: Any, db: Any, _: None) -> torch.Tensor:
        total = None
        with rule_of_tangents(ctx) as point:
            if dx is not None:
                total = _Tangents.apply(dx[None], *point, ctx.norm, False)[0].to(ctx.dtype)
            if dw is not None or db is not None:
                rest = ctx.norm.push_affine(point, dw, db).to(ctx.dtype)
                total = rest if total is None else total + rest
        assert total is not None  # torch calls where there is a tangent
        return total

    @staticmethod
    def backward(ctx: Any, cotangent: torch.Tensor | None) -> Any:  # type: ignore[override]
        grads: list[torch.Tensor | None] = [None] * 4
        if cotangent is None:
            return tuple(grads)
        point = ctx.saved_tensors
        if ctx.needs_input_grad[0]:
            grads[0] = _Tangents.apply(cotangent[None], *point, ctx.norm, True)[0].to(
                point[0].dtype
            )
        if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
            for i, grad in enumerate(ctx.norm.pull_affine(point, cotangent), start=1):
                if ctx.needs_input_grad[i]:
                    grads[i] = grad.to(point[i].dtype)
        return tuple(grads)

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[int | None, ...],
        x: torch.Tensor,
        weight: torch.Tensor | None,
        bias: torch.Tensor | None,
        norm: Norm,
    ) -> tuple[torch.Tensor, int]:
        if in_dims[1] is not None or in_dims[2] is not None:
            return torch.vmap(norm.value, in_dims=in_dims[:3])(x, weight, bias), 0
        assert in_dims[0] is not None
        folded = norm.folded(x.movedim(in_dims[0], 0), 0)
        y = _Normalize.apply(folded, weight, bias, norm)
        return norm.unfolded(y, 0, info.batch_size), 0


def group_norm(
    x: torch.Tensor,
    num_groups: int,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
) -> torch.Tensor:
    """Group normalisation, as ``torch.nn.functional.group_norm``, for many tangents at once.

    Values are torch's, bit for bit. Under ``vmap(jvp)`` and ``vmap(vjp)`` with one primal for all
    tangents its statistics are computed once, and all tangents go through one call of
    ``pullback_ext.normalize_tangents``: the result for a tangent is the same, to the bit, whatever
    else is in the call. Primals and tangents may have any layout, each its own; torch's rule fails
    for primals that are not contiguous. Derivatives with respect to ``x``, ``weight`` and ``bias``,
    of any order and in any mixture of modes, are right; those of order two and more are made of
    torch's functions and cost accordingly.

    Args:
        x: [B, C, ...], any strides; float64, float32, bfloat16 or float16; any device.
        num_groups: G, which divides C.
        weight: [C]; ones if None.
        bias: [C]; zeros if None.
        eps: added to the variance.

    Returns:
        [B, C, ...], dtype and device of ``x``. Cotangents come back in the layout that they have
        where it is contiguous or channels-last, else contiguous; so do tangents, which torch puts
        into the layout of the primal.

    Raises:
        RuntimeError: another dtype or shape; differentiated in inference mode with torch below
            2.12, or traced by ``torch.compile(fullgraph=True)``, where derivatives would be silent
            zeros (without ``fullgraph`` it runs as it stands, uncompiled).

    Cost: of a block of tangents, one read and one write, as far as a group fits into the cache, and
        a few passes over the primal. Saved for the backward pass: ``x``.

    Source: Wu and He 2018, arXiv:1803.08494.
    """
    _check("group_norm", x)
    return _Normalize.apply(x, weight, bias, Norm(num_groups, (), eps))


def group_norm_silu(
    x: torch.Tensor,
    num_groups: int,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
) -> torch.Tensor:
    """SiLU of :func:`group_norm`, with one rule for both: tangents are read and written once.

    Args:
        x: [B, C, ...], any strides; float64, float32, bfloat16 or float16; any device.
        num_groups: G, which divides C.
        weight: [C]; ones if None.
        bias: [C]; zeros if None.
        eps: added to the variance.

    Returns:
        [B, C, ...], dtype and device of ``x``; layouts as :func:`group_norm`.

    Raises:
        RuntimeError: as :func:`group_norm`.

    Cost: as :func:`group_norm`, and a tensor of the size of ``x`` in its working dtype more.

    Source: the order of layers in residual blocks of diffusion networks (Ho et al. 2020,
    arXiv:2006.11239).
    """
    _check("group_norm_silu", x)
    return _Normalize.apply(x, weight, bias, Norm(num_groups, (), eps, gated=True))


def layer_norm(
    x: torch.Tensor,
    normalized_shape: Sequence[int],
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
) -> torch.Tensor:
    """Layer normalisation, as ``torch.nn.functional.layer_norm``, for many tangents at once.

    What :func:`group_norm` says of values, derivatives and layouts holds here too. torch's own
    second derivatives in forward mode are wrong for this layer (2.13); these are not.

    Args:
        x: ``[..., *normalized_shape]``, any strides; float64, float32, bfloat16 or float16; any
            device.
        normalized_shape: sizes of the last dimensions, over which statistics are taken.
        weight: ``[*normalized_shape]``; ones if None.
        bias: ``[*normalized_shape]``; zeros if None.
        eps: added to the variance.

    Returns:
        ``[..., *normalized_shape]``, dtype and device of ``x``.

    Raises:
        RuntimeError: as :func:`group_norm`.

    Cost: as :func:`group_norm`.

    Source: Ba et al. 2016, arXiv:1607.06450.
    """
    _check("layer_norm", x)
    return _Normalize.apply(x, weight, bias, Norm(None, tuple(normalized_shape), eps))


def rms_norm(
    x: torch.Tensor,
    normalized_shape: Sequence[int],
    weight: torch.Tensor | None = None,
    eps: float | None = None,
) -> torch.Tensor:
    """Division by the root mean square, as ``torch.nn.functional.rms_norm``, for many tangents.

    What :func:`group_norm` says of values, derivatives and layouts holds here too.

    Args:
        x: ``[..., *normalized_shape]``, any strides; float64, float32, bfloat16 or float16; any
            device.
        normalized_shape: sizes of the last dimensions, over which the mean square is taken.
        weight: ``[*normalized_shape]``; ones if None.
        eps: added to the mean square; one rounding of float64 for a float64 ``x``, else of float32,
            if None.

    Returns:
        ``[..., *normalized_shape]``, dtype and device of ``x``.

    Raises:
        RuntimeError: as :func:`group_norm`.

    Cost: as :func:`group_norm`.

    Source: Zhang and Sennrich 2019, arXiv:1910.07467.
    """
    _check("rms_norm", x)
    if eps is None:
        eps = torch.finfo(working(x)).eps  # as torch has it
    return _Normalize.apply(x, weight, None, Norm(None, tuple(normalized_shape), eps, False))


def _check(name: str, x: torch.Tensor) -> None:
    refuse_silent_zeros(name)
    if not x.is_floating_point():
        raise RuntimeError(
            f"{name}: expected float64, float32, bfloat16 or float16, got {x.dtype}. Convert it, "
            "for instance with .float()."
        )
