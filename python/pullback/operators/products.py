"""Both products pass by pass, with what they keep of the points from one product to the next."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from pullback import _ranges
from pullback.operators.derivative import Derivative, Way
from pullback.operators.passes import Chunk, ProductCount
from pullback.operators.points import Points


@dataclass(frozen=True)
class _Piece:
    """The derivative at some samples of a batch, one after the other."""

    samples: slice
    derivative: Derivative


class Products:
    """Products in passes of some samples and some columns.

    What is kept of the points are pieces of the batch, as large as a pass of the first product was;
    later products go by the same pieces, however many columns they have.

    Args:
        points: the map at its points.
        chunk: samples and columns in a pass; read at every product, since it may shrink.
        h_shape: shape of the map's output for one sample.
        count: the products made are added here.
        way: how the map is differentiated.
    """

    def __init__(
        self,
        points: Points,
        chunk: Chunk,
        h_shape: tuple[int, ...],
        count: ProductCount,
        way: Way,
    ) -> None:
        self.points, self.chunk, self.h_shape, self.count = points, chunk, h_shape, count
        self.way = way
        self._pieces: dict[int, _Piece] = {}  # by their first sample

    def push(self, v: torch.Tensor) -> torch.Tensor:
        """J v: `[B, k, *x_shape]` to `[B, k, *h_shape]`."""
        with _ranges.stage(_ranges.PUSH, f"{v.shape[0]}x{v.shape[1]}"):
            product = self._multiply(v, "push", self.h_shape)
        self.count.jvp += v.shape[0] * v.shape[1]
        return product

    def pull(self, u: torch.Tensor) -> torch.Tensor:
        """Jᵀ u: `[B, k, *h_shape]` to `[B, k, *x_shape]`."""
        with _ranges.stage(_ranges.PULL, f"{u.shape[0]}x{u.shape[1]}"):
            product = self._multiply(u, "pull", tuple(self.points.x.shape[1:]))
        self.count.vjp += u.shape[0] * u.shape[1]
        return product

    def forget(self) -> None:
        """Free what is kept between products."""
        self._pieces = {}

    def hand_down(self, other: Products, index: torch.Tensor) -> None:
        """Let the products of some of these samples go on with the pieces that are kept.

        Args:
            other: the products of the samples at the indices.
            index: int64 `[B']`; nothing is handed down unless it rises.
        """
        index = index.cpu()
        if len(index) > 1 and not bool((index[1:] > index[:-1]).all()):
            return
        for piece in self._pieces.values():
            inside = (index >= piece.samples.start) & (index < piece.samples.stop)
            rows = index[inside] - piece.samples.start
            derivative = piece.derivative.select(rows) if len(rows) else None
            if derivative is not None:
                start = int(torch.nonzero(inside)[0])
                other._pieces[start] = _Piece(slice(start, start + len(rows)), derivative)

    def _multiply(self, block: torch.Tensor, which: str, shape: tuple[int, ...]) -> torch.Tensor:
        columns = block.shape[1]
        if columns == 0:
            return block.new_zeros((len(block), 0, *shape))
        keep = self.chunk.keeps(len(self.points), columns)
        if not keep:
            self.forget()  # or the old activations would stand beside those of a pass
        found = []
        with torch.no_grad():
            for samples in self._cut(columns):
                piece = self._piece(samples)
                if keep:
                    self._pieces[samples.start] = piece
                multiply = getattr(piece.derivative, which)
                parts = block[samples].split(self.chunk.width(len(block[samples])), dim=1)
                products = [multiply(part) for part in parts]
                found.append(torch.cat(products, dim=1) if len(products) > 1 else products[0])
                del piece, multiply
        return torch.cat(found) if len(found) > 1 else found[0]

    def _cut(self, columns: int) -> Iterator[slice]:
        """The samples of each pass: the pieces that are kept, and between them as planned."""
        batch, start = len(self.points), 0
        rows = self.chunk.cut(columns)[0]
        while start < batch:
            known = self._pieces.get(start)
            if known is not None:
                yield known.samples
                start = known.samples.stop
                continue
            later = [first for first in self._pieces if first > start]
            stop = min([start + rows, batch, *later])
            yield slice(start, stop)
            start = stop

    def _piece(self, samples: slice) -> _Piece:
        """What is kept of some samples, or made now where nothing is, or no longer holds."""
        known = self._pieces.get(samples.start)
        if known is not None and known.derivative.holds():
            return known
        self._pieces.pop(samples.start, None)
        del known
        with _ranges.stage(_ranges.PRIMAL):
            return _Piece(samples, self.way.derivative(self.points.select(samples)))
