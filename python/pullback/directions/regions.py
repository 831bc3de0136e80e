"""Regions of the output: which entries a mask selects, and the rows of a Jacobian there."""

from __future__ import annotations

import math

import torch
from typing_extensions import override

from pullback.operators import BlockOperator


def region_of(mask: object, shape: tuple[int, ...]) -> torch.Tensor:
    """A mask as bool `[*shape]` on the CPU, of an output of this shape.

    Args:
        mask: bool, of the shape, or of its last sizes (a region [H, W] of every channel).
        shape: of the output of one sample.

    Raises:
        TypeError: it is no tensor.
        ValueError: it is not bool, has other sizes, or selects nothing.
    """
    if not isinstance(mask, torch.Tensor):
        raise TypeError(
            f"Expected the mask as a bool tensor [H, W], got {type(mask).__name__}. Convert it "
            "with torch.as_tensor."
        )
    if mask.dtype != torch.bool:
        raise ValueError(
            f"Expected a bool mask, got {mask.dtype}. Say what is selected, such as mask > 0.5."
        )
    fits = 1 <= mask.dim() <= len(shape)
    if not fits or tuple(mask.shape) != shape[len(shape) - mask.dim() :]:
        raise ValueError(
            f"Expected a mask of shape {list(shape)}, or of its last sizes, got "
            f"{list(mask.shape)}. It is of the latents, not of the image: resize it to them."
        )
    if not bool(mask.any()):
        raise ValueError("Expected a mask that selects something, got one without a true entry.")
    return mask.detach().cpu().expand(shape)


class Rows(BlockOperator):
    """Some rows of an operator, which go through its own products: A restricted to a region.

    Args:
        operator: the operator, whose graphs and counts all its rows share.
        places: int64 `[r]`, places in its flat output, on its device.
    """

    def __init__(self, operator: BlockOperator, places: torch.Tensor) -> None:
        shape = (len(places),)
        super().__init__(
            operator.batch, operator.x_shape, shape, operator.dtype, operator.device
        )  # fmt: skip
        self.operator, self.places = operator, places

    @override
    def matmat(self, v: torch.Tensor) -> torch.Tensor:
        """The rows of A v, `[B, k, *x_shape]` to `[B, k, r]`."""
        return self.operator.matmat(v).flatten(2).index_select(2, self.places)

    @override
    def rmatmat(self, u: torch.Tensor) -> torch.Tensor:
        """Aᵀ of u with zeros in the other rows, `[B, k, r]` to `[B, k, *x_shape]`."""
        shape = self.operator.h_shape
        whole = u.new_zeros(*u.shape[:2], math.prod(shape)).index_copy(2, self.places, u)
        return self.operator.rmatmat(whole.unflatten(2, shape))

    @override
    def select(self, index: torch.Tensor) -> Rows:
        """The same rows for the samples at the int64 indices `[B']`."""
        return Rows(self.operator.select(index), self.places)

    @override
    def nearby(self, draw: int) -> Rows | None:
        """The same rows of the operator from inputs that differ by a few roundings."""
        other = self.operator.nearby(draw)
        return None if other is None else Rows(other, self.places)

    @override
    def _release(self) -> None:
        """Free what the operator keeps between products."""
        self.operator._release()
