"""Both products pass by pass: J by `vmap` over `jvp`, Jᵀ by `vmap` over `vjp`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch

from pullback.operators.passes import Chunk, ProductCount
from pullback.operators.points import Points
from pullback_ext.intercept import forward_mode_ready


@dataclass(frozen=True)
class _Closure:
    """The vjp closure of some samples, kept between products."""

    samples: slice
    pull: Callable[[torch.Tensor], tuple[torch.Tensor]] = field(repr=False)


class ForwardMode:
    """Products in passes of some samples and some columns, which share the primal.

    Args:
        points: the map at its points.
        chunk: samples and columns in a pass; read at every product, since it may shrink.
        h_shape: shape of the map's output for one sample.
        count: the products made are added here.
    """

    def __init__(
        self, points: Points, chunk: Chunk, h_shape: tuple[int, ...], count: ProductCount
    ) -> None:
        self.points, self.chunk, self.h_shape, self.count = points, chunk, h_shape, count
        self._closure: dict[int, _Closure] | None = None  # by the first sample of the pass

    def push(self, v: torch.Tensor) -> torch.Tensor:
        """J v: `[B, k, *x_shape]` to `[B, k, *h_shape]`."""
        pieces: dict[int, list[torch.Tensor]] = {}
        with torch.no_grad(), forward_mode_ready():
            for samples, columns in self._passes(v.shape[1]):
                part = self.points.select(samples)

                def push(tangent: torch.Tensor, part: Points = part) -> torch.Tensor:
                    return torch.func.jvp(part.at, (part.x,), (tangent,))[1]

                tangents = v[samples, columns]
                product = torch.func.vmap(push, in_dims=1, out_dims=1)(tangents)
                pieces.setdefault(samples.start, []).append(product)
                self.count.jvp += tangents.shape[0] * tangents.shape[1]
        return _assembled(pieces, v, self.h_shape)

    def pull(self, u: torch.Tensor) -> torch.Tensor:
        """Jᵀ u: `[B, k, *h_shape]` to `[B, k, *x_shape]`."""
        pieces: dict[int, list[torch.Tensor]] = {}
        with torch.no_grad(), forward_mode_ready():
            for samples, columns in self._passes(u.shape[1]):
                pull = self._closure_of(samples, u.shape[1])
                cotangents = u[samples, columns]
                product = torch.func.vmap(lambda w, pull=pull: pull(w)[0], in_dims=1, out_dims=1)(
                    cotangents
                )
                pieces.setdefault(samples.start, []).append(product)
                self.count.vjp += cotangents.shape[0] * cotangents.shape[1]
        if not self.chunk.keeps(len(self.points), u.shape[1]):
            self.forget()
        return _assembled(pieces, u, tuple(self.points.x.shape[1:]))

    def forget(self) -> None:
        """Free the activations that are kept between products."""
        self._closure = None

    def _passes(self, columns: int) -> Iterator[tuple[slice, slice]]:
        batch = len(self.points)
        rows, width = self.chunk.cut(columns)
        for first in range(0, batch, rows):
            samples = slice(first, min(first + rows, batch))
            for column in range(0, columns, width):
                yield samples, slice(column, min(column + width, columns))

    def _closure_of(
        self, samples: slice, columns: int
    ) -> Callable[[torch.Tensor], tuple[torch.Tensor]]:
        kept = None if self._closure is None else self._closure.get(samples.start)
        if kept is None or kept.samples != samples:
            if not self.chunk.keeps(len(self.points), columns) or not self._fits(samples):
                self._closure = None  # free the old activations before the new ones are made
            part = self.points.select(samples)
            value, pull = torch.func.vjp(part.at, part.x)[:2]

            def cast_and_pull(w: torch.Tensor) -> tuple[torch.Tensor]:
                return pull(w.to(value.dtype))

            kept = _Closure(samples, cast_and_pull)
            self._closure = {**(self._closure or {}), samples.start: kept}
        return kept.pull

    def _fits(self, samples: slice) -> bool:
        """Whether a pass comes after all of those that are kept."""
        return all(other.samples.stop <= samples.start for other in (self._closure or {}).values())


def _assembled(
    pieces: dict[int, list[torch.Tensor]], block: torch.Tensor, shape: tuple[int, ...]
) -> torch.Tensor:
    """The product of a whole block from those of its passes, `[B, k, *shape]`."""
    if block.shape[1] == 0:
        return block.new_zeros((len(block), 0, *shape))
    rows = [torch.cat(row, dim=1) if len(row) > 1 else row[0] for row in pieces.values()]
    return torch.cat(rows) if len(rows) > 1 else rows[0]
