"""Rules of group, layer and RMS normalisation, which linearised are one and the same map."""

from __future__ import annotations

import math

import torch

from pullback.linearization.linear import Call, Linear, Single, rule
from pullback_ext import normalize_tangents


class Normalization(Single):
    """t to scale gain (t - mean t - n mean(t n)), the means over a group of entries.

    Args:
        shape: of the input and the output.
        normalized: n, the normalised entries `[B, G, C, P]`.
        scale: the inverse deviation of each group `[B, G]`.
        gain: what the result is multiplied by, broadcast with n; None for 1.
        centered: whether the mean is taken away.
    """

    def __init__(
        self,
        shape: torch.Size,
        normalized: torch.Tensor,
        scale: torch.Tensor,
        gain: torch.Tensor | None,
        *,
        centered: bool = True,
    ) -> None:
        self.shape, self.normalized, self.scale = shape, normalized, scale
        self.gain, self.centered = gain, centered

    def push_one(self, tangent: torch.Tensor) -> torch.Tensor:
        """`[k, *shape]` to the same."""
        return self._multiply(tangent, transposed=False)

    def pull_one(self, cotangent: torch.Tensor) -> torch.Tensor:
        """`[k, *shape]` to the same."""
        return self._multiply(cotangent, transposed=True)

    def _multiply(self, block: torch.Tensor, *, transposed: bool) -> torch.Tensor:
        groups = block.reshape(len(block), *self.normalized.shape)
        found = normalize_tangents(
            groups, self.normalized, self.scale, self.gain, self.centered, transposed
        )
        return found.reshape(len(block), *self.shape)

    def then_times(self, factor: torch.Tensor) -> Normalization:
        """The same, and its result times a factor of the shape of the output."""
        factor = factor.reshape(self.normalized.shape).to(self.normalized.dtype)
        gain = factor if self.gain is None else self.gain * factor
        return Normalization(self.shape, self.normalized, self.scale, gain, centered=self.centered)


def _working(tensor: torch.Tensor) -> torch.dtype:
    """The dtype of what is kept: half precision is too coarse for statistics."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def _normalization(
    x: torch.Tensor,
    shape: tuple[int, int, int, int],
    mean: torch.Tensor,
    deviation: torch.Tensor,
    weight: torch.Tensor | None,
    wide: tuple[int, int, int, int],
) -> Normalization:
    """The map of groups `[B, G, C, P]` with their statistics; `wide` is the shape of the weight."""
    working = _working(x)
    scale = deviation.to(working).reshape(shape[:2])
    offset = mean.to(working).reshape(*shape[:2], 1, 1)
    normalized = (x.to(working).reshape(shape) - offset) * scale[..., None, None]
    gain = None if weight is None else weight.to(working).reshape(wide)
    return Normalization(x.shape, normalized, scale, gain)


@rule("native_group_norm")
def _group_norm(call: Call) -> Linear | None:
    x, weight, _, batch, channels, positions, groups = call.args[:7]
    if call.only != 0:
        return None
    _, mean, deviation = call.result
    shape = (batch, groups, channels // groups, positions)
    return _normalization(x, shape, mean, deviation, weight, (1, *shape[1:3], 1))


@rule("native_layer_norm")
def _layer_norm(call: Call) -> Linear | None:
    x, size, weight = call.args[:3]
    if call.only != 0:
        return None
    _, mean, deviation = call.result
    shape = (mean.numel(), 1, 1, math.prod(size))
    return _normalization(x, shape, mean, deviation, weight, (1, 1, 1, shape[3]))
