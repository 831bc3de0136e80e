"""Normalisation layers as mathematics: values, statistics and the linear map of their tangents.

All but `statistics_by_kernel` is made of torch's functions, and differentiable as they are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pullback_ext.gates import silu_slope

#: x, and weight and bias or None.
Point = Sequence[Any]


def in_torch(
    t: torch.Tensor,
    normalized: torch.Tensor,
    scale: torch.Tensor,
    gain: torch.Tensor | None = None,
    centered: bool = True,
    transposed: bool = False,
) -> torch.Tensor:
    """`normalize_tangents`, with the same arguments, differentiable in all of them."""
    wide = t.to(normalized.dtype)
    z = wide * gain if transposed and gain is not None else wide
    p = z - normalized * (z * normalized).mean((-2, -1), keepdim=True)
    if centered:
        p = p - z.mean((-2, -1), keepdim=True)
    p = p * scale[..., None, None]
    return (p if transposed or gain is None else p * gain).to(t.dtype)


@dataclass(frozen=True)
class Norm:
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
        """The result of torch's own function."""
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
        """Returns xh [B, G, Cg, P] and scale [B, G] in the working dtype, by torch's functions."""
        wide = x.to(working(x)).reshape(self.sizes(x))
        if self.centered:
            wide = wide - wide.mean((-2, -1), keepdim=True)
        scale = torch.rsqrt((wide * wide).mean((-2, -1), keepdim=True) + self.eps)
        return wide * scale, scale[..., 0, 0]

    def statistics_by_kernel(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The same by a kernel that has no derivatives of all that it gives."""
        sizes, wide = self.sizes(x), x.to(working(x))
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
        if weight is not None and bias is not None:
            return silu_slope(torch.addcmul(self.affine(bias, xh), xh, self.affine(weight, xh)))
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
        *,
        transposed: bool,
    ) -> torch.Tensor:
        """The linear map, or its transpose, of tangents [k, *x.shape], differentiable in all."""
        xh, scale = self.statistics(x)
        gain = self.gain(xh, weight, bias)
        blocks = t.reshape(len(t), *xh.shape)
        return in_torch(blocks, xh, scale, gain, self.centered, transposed).reshape(t.shape)

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


def working(x: torch.Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _dense(x: torch.Tensor) -> torch.Tensor:
    """The same numbers in a layout that torch's kernel takes: [B, C, P], or channels-last on CPUs.

    The kernel tells the layout by the strides, which say nothing where a size is 1: they are set to
    what the layout has.
    """
    last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
    if x.device.type != "cpu" or not last or x.is_contiguous():
        return x.contiguous().view(x.shape[0], x.shape[1], -1)
    _, channels, height, width = x.shape
    return x.as_strided(x.shape, (channels * height * width, 1, width * channels, channels))
