"""Both products with a Jacobian as backward passes through graphs that are kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from pullback.operators.points import Points
from pullback_ext.intercept import forward_mode_ready


class TangentGraph:
    """Products with J and Jᵀ for blocks of a fixed number of columns, without the primal.

    The first graph is that of h = f(x), the second that of g(u) = Jᵀu, which is linear in u: its
    own transpose is J. Both are recorded once, on one copy of every sample per column, so that a
    product with J costs no forward pass and no forward-mode rule, and its price is that of a
    backward pass. The copies are what it costs in memory.

    Args:
        points: the map at its points.
        columns: tangents per sample in one product.

    Raises:
        RuntimeError: f cannot be differentiated twice in reverse mode.
    """

    def __init__(self, points: Points, columns: int) -> None:
        self.columns, self.batch = columns, len(points)
        copies = torch.arange(self.batch, device="cpu").repeat_interleave(columns)
        with torch.enable_grad(), forward_mode_ready():
            wide = points.select(copies)
            self._x = wide.x.detach().requires_grad_()
            self._h = wide.at(self._x)
            self._u = torch.zeros_like(self._h).requires_grad_()
            (self._g,) = torch.autograd.grad(self._h, self._x, self._u, create_graph=True)

    def push(self, v: torch.Tensor) -> torch.Tensor:
        """J v: `[B, k, *x_shape]` to `[B, k, *h_shape]` for k up to `columns`."""
        return self._pass(self._g, self._u, v)

    def pull(self, u: torch.Tensor) -> torch.Tensor:
        """Jᵀ u: `[B, k, *h_shape]` to `[B, k, *x_shape]` for k up to `columns`."""
        return self._pass(self._h, self._x, u)

    def _pass(
        self, output: torch.Tensor, source: torch.Tensor, block: torch.Tensor
    ) -> torch.Tensor:
        width = block.shape[1]
        if width < self.columns:
            missing = self.columns - width
            rest = block.new_zeros(self.batch, missing, *block.shape[2:])
            block = torch.cat([block, rest], dim=1)
        cotangent = block.to(output.dtype).reshape(output.shape)
        with forward_mode_ready():
            (result,) = torch.autograd.grad(output, source, cotangent, retain_graph=True)
        return result.reshape(self.batch, self.columns, *source.shape[1:])[:, :width]


@dataclass(frozen=True)
class SharedGraph:
    """A `TangentGraph` used for some of the samples that it was recorded for.

    Attributes:
        graph: the graph.
        rows: which of the graph's samples are ours, int64 on the CPU.
    """

    graph: TangentGraph
    rows: torch.Tensor

    @classmethod
    def record(cls, points: Points, columns: int) -> SharedGraph:
        """Record a graph for all samples of some points; raises what `TangentGraph` does."""
        return cls(TangentGraph(points, columns), torch.arange(len(points), device="cpu"))

    def select(self, index: torch.Tensor) -> SharedGraph:
        """The same graph for some of these samples, at int64 indices `[B']`."""
        return SharedGraph(self.graph, self.rows[index.cpu()])

    def serves(self, columns: int) -> bool:
        """Whether it suits blocks of that width, without much idle work for other samples."""
        return self.graph.columns == columns and 2 * len(self.rows) >= self.graph.batch

    def push(self, v: torch.Tensor) -> torch.Tensor:
        """J v: `[B, k, *x_shape]` to `[B, k, *h_shape]` for any k."""
        return torch.cat([self._part(part, self.graph.push) for part in self._parts(v)], dim=1)

    def pull(self, u: torch.Tensor) -> torch.Tensor:
        """Jᵀ u: `[B, k, *h_shape]` to `[B, k, *x_shape]` for any k."""
        return torch.cat([self._part(part, self.graph.pull) for part in self._parts(u)], dim=1)

    def _parts(self, block: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """As many columns at a time as the graph has."""
        return block.split(self.graph.columns, dim=1)

    def _part(
        self, part: torch.Tensor, multiply: Callable[[torch.Tensor], torch.Tensor]
    ) -> torch.Tensor:
        # Samples of the graph that are not ours get zeros, and give zeros.
        rows = self.rows.to(part.device)
        whole = part.new_zeros(self.graph.batch, *part.shape[1:])
        whole[rows] = part
        return multiply(whole)[rows]
