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
which are second derivatives, are those of `_Norm.linearized`, the same map in torch's functions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pullback_ext import _ops
from pullback_ext._derivatives import is_asked, refuse_silent_zeros, rule_of_tangents
from pullback_ext.gates import silu_slope

Point = Sequence[Any]  # x, and weight and bias or None


_by_kernel = _ops.overload("normalize_tangents")


def _in_torch(
    t: torch.Tensor,
    normalized: torch.Tensor,
    scale: torch.Tensor,
    gain: torch.Tensor | None = None,
    centered: bool = True,
    transposed: bool = False,
) -> torch.Tensor:
    """`normalize_tangents`, differentiable in all that it takes: the same names, shapes and dtypes."""
    wide = t.to(normalized.dtype)
    z = wide * gain if transposed and gain is not None else wide
    p = z - normalized * (z * normalized).mean((-2, -1), keepdim=True)
    if centered:
        p = p - z.mean((-2, -1), keepdim=True)
    p = p * scale[..., None, None]
    return (p if transposed or gain is None else p * gain).to(t.dtype)


@dataclass(frozen=True)
class _Norm:
    """Which normalisation it is.

    Attributes:
        groups: number of groups of channels; None where the last dimensions are normalised.
        shape: sizes of the last dimensions that are normalised, where there are no groups.
        eps: what is added to the mean square.
        centered: whether the mean is taken away.
        gated: whether SiLU follows.
    """

    groups: int | None
    shape: tuple[int, ...]
    eps: float
    centered: bool = True
    gated: bool = False

    def value(
        self, x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None
    ) -> torch.Tensor:
        """torch's own result."""
        aten = torch.ops.aten
        if self.groups is not None:
            y = aten.group_norm(x, self.groups, weight, bias, self.eps)
        elif self.centered:
            y = aten.layer_norm(x, self.shape, weight, bias, self.eps)
        else:
            y = aten.rms_norm(x, self.shape, weight, self.eps)
        return aten.silu(y) if self.gated else y

    def sizes(self, x: torch.Tensor) -> tuple[int, int, int, int]:
        """B, G, Cg, P: statistics are of (Cg, P)."""
        if self.groups is not None:
            batch, channels, *positions = x.shape
            return batch, self.groups, channels // self.groups, math.prod(positions)
        return math.prod(x.shape[: x.dim() - len(self.shape)]), 1, 1, math.prod(self.shape)

    def statistics(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """xh [B, G, Cg, P] and scale [B, G] in the working dtype, in torch's functions."""
        wide = x.to(_working(x)).reshape(self.sizes(x))
        if self.centered:
            wide = wide - wide.mean((-2, -1), keepdim=True)
        scale = torch.rsqrt((wide * wide).mean((-2, -1), keepdim=True) + self.eps)
        return wide * scale, scale[..., 0, 0]

    def statistics_by_kernel(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The same by a kernel that has no derivatives of all that it gives."""
        sizes, wide = self.sizes(x), x.to(_working(x))
        if not self.centered or x.numel() == 0:
            return self.statistics(x)
        if self.groups is None:
            rows = wide.reshape(sizes[0], sizes[3])
            xh, _, scale = torch.native_layer_norm(rows, [sizes[3]], None, None, self.eps)
        else:
            xh, _, scale = torch.native_group_norm(
                _dense(wide), None, None, sizes[0], x.shape[1], sizes[3], self.groups, self.eps
            )
        return xh.reshape(sizes), scale.reshape(sizes[:2])

    def gain(
        self, xh: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None
    ) -> torch.Tensor | None:
        """What multiplies the normalised tangent, in a shape that broadcasts to [B, G, Cg, P]."""
        gain = None if weight is None else self.affine(weight, xh)
        if not self.gated:
            return gain
        slope = self.slope(xh, weight, bias)
        return slope if gain is None else slope * gain

    def slope(
        self, xh: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None
    ) -> torch.Tensor:
        """The derivative of SiLU at what it is applied to, [B, G, Cg, P]."""
        z = xh if weight is None else xh * self.affine(weight, xh)
        return silu_slope(z if bias is None else z + self.affine(bias, xh))

    def affine(self, weight: torch.Tensor, xh: torch.Tensor) -> torch.Tensor:
        """Weight or bias as [1, G, Cg, 1] or [1, 1, 1, P], in the working dtype."""
        return weight.to(xh.dtype).reshape(self._affine_sizes(xh))

    def _affine_sizes(self, xh: torch.Tensor) -> tuple[int, int, int, int]:
        _, groups, channels, positions = xh.shape
        return (1, 1, 1, positions) if self.groups is None else (1, groups, channels, 1)

    def linearized(
        self,
        t: torch.Tensor,
        x: torch.Tensor,
        weight: torch.Tensor | None,
        bias: torch.Tensor | None,
        transposed: bool,
    ) -> torch.Tensor:
        """The linear map, or its transpose, of tangents [k, *x.shape], differentiable in all."""
        xh, scale = self.statistics(x)
        gain = self.gain(xh, weight, bias)
        blocks = t.reshape(len(t), *xh.shape)
        return _in_torch(blocks, xh, scale, gain, self.centered, transposed).reshape(
            t.shape
        )

    def push_affine(self, point: Point, dw: Any, db: Any) -> torch.Tensor:
        """What tangents of weight and bias add to the result's, in the shape of x."""
        x, weight, bias = point
        xh, _ = self.statistics(x)
        total = torch.zeros_like(xh) if dw is None else xh * self.affine(dw, xh)
        if db is not None:
            total = total + self.affine(db, xh)
        return (total * self.slope(xh, weight, bias) if self.gated else total).reshape(x.shape)

    def pull_affine(self, point: Point, cotangent: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Cotangents of weight and bias, in their working dtype and [channels] or `shape`."""
        x, weight, bias = point
        xh, _ = self.statistics(x)
        c = cotangent.to(xh.dtype).reshape(xh.shape)
        if self.gated:
            c = c * self.slope(xh, weight, bias)
        over = (0, 1, 2) if self.groups is None else (0, 3)
        shape = self.shape if self.groups is None else (x.shape[1],)
        return (c * xh).sum(over).reshape(shape), c.sum(over).reshape(shape)

    def folded(self, x: torch.Tensor, dim: int) -> torch.Tensor:
        """A mapped dimension, at `dim`, of x or of tangents folded into the samples behind it."""
        return x if self.groups is None else x.flatten(dim, dim + 1)

    def unfolded(self, x: torch.Tensor, dim: int, size: int) -> torch.Tensor:
        """The inverse of `folded`."""
        return x if self.groups is None else x.unflatten(dim, (size, -1))


def _working(x: torch.Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _dense(x: torch.Tensor) -> torch.Tensor:
    """x in a layout that torch's kernel takes on the device."""
    if x.device.type != "cpu" or x.dim() != 4:
        return x.contiguous()
    last = x.is_contiguous(memory_format=torch.channels_last)
    return x.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


class _Tangents(torch.autograd.Function):
    """A normalisation linearised at a point, or the transpose, of tangents [k, *x.shape]."""

    @staticmethod
    def forward(
        t: torch.Tensor,
        x: torch.Tensor,
        weight: torch.Tensor | None,
        bias: torch.Tensor | None,
        norm: _Norm,
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
                _, pull = torch.func.vjp(f, *at)
                _, push = torch.func.vjp(pull, torch.zeros_like(t))
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
            _, pull = torch.func.vjp(f, *at)
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
        norm: _Norm,
        transposed: bool,
    ) -> tuple[torch.Tensor, int]:
        size = info.batch_size
        if in_dims[2] is not None or in_dims[3] is not None:  # a point of its own for each weight

            def linearized(*tensors: Any) -> torch.Tensor:
                return norm.linearized(*tensors, transposed)

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
    norm: _Norm, t: torch.Tensor, point: Point, which: list[int], transposed: bool
) -> tuple[Callable[..., torch.Tensor], list[torch.Tensor]]:
    """The linear map as a function of some of x, weight and bias, and those."""

    def f(*some: torch.Tensor) -> torch.Tensor:
        every = list(point)
        for i, value in zip(which, some, strict=True):
            every[i] = value
        return norm.linearized(t, *every, transposed)

    return f, [point[i] for i in which]


class _Normalize(torch.autograd.Function):
    """A normalisation layer."""

    @staticmethod
    def forward(
        x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None, norm: _Norm
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
        norm: _Norm,
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
    refuse_silent_zeros("group_norm")
    return _Normalize.apply(x, weight, bias, _Norm(num_groups, (), eps))


def group_norm_silu(
    x: torch.Tensor,
    num_groups: int,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
) -> torch.Tensor:
    refuse_silent_zeros("group_norm_silu")
    return _Normalize.apply(x, weight, bias, _Norm(num_groups, (), eps, gated=True))


def layer_norm(
    x: torch.Tensor,
    normalized_shape: Sequence[int],
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
) -> torch.Tensor:
    refuse_silent_zeros("layer_norm")
    return _Normalize.apply(x, weight, bias, _Norm(None, tuple(normalized_shape), eps))


def rms_norm(
    x: torch.Tensor,
    normalized_shape: Sequence[int],
    weight: torch.Tensor | None = None,
    eps: float | None = None,
) -> torch.Tensor:
    refuse_silent_zeros("rms_norm")
    if eps is None:
        eps = torch.finfo(torch.promote_types(x.dtype, torch.float32)).eps  # as torch has it
    return _Normalize.apply(x, weight, None, _Norm(None, tuple(normalized_shape), eps, False))
