"""What an iteration holds: its settings, and what it remembers of the samples that are running."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch

from pullback.operators import BlockOperator


class Settings:
    """What does not change during an iteration.

    Attributes:
        rank: triplets per sample.
        block: rows multiplied at a time.
        tol: the bound on the sine that is asked for.
        max_products: products per sample after which to stop.
        n: entries of an input.
        m: entries of an output.
        dtype: of the vectors that the iteration holds: float32 or float64.
        eps: rounding of the products.
        keep_images: whether J V is kept beside V.
        floor: relative residual below which rounding hides everything.
        capacity: rows of V at most.
    """

    def __init__(
        self, operator: BlockOperator, rank: int, *, block: int, tol: float, max_products: int
    ) -> None:
        self.rank, self.tol, self.max_products = rank, tol, max_products
        self.n, self.m = math.prod(operator.x_shape), math.prod(operator.h_shape)
        self.block = min(block, rank + 4, self.n)
        self.dtype = torch.float64 if operator.dtype == torch.float64 else torch.float32
        self.eps = torch.finfo(operator.dtype).eps
        # In half precision J v_i taken afresh is far more accurate than a sum of stored images,
        # and rounding, which is once per layer there, disturbs the iteration less than eps says.
        self.keep_images = operator.dtype == self.dtype
        self.floor = self.eps * (8 if self.keep_images else 0.5)
        self.capacity = max(4 * rank, rank + 10 * self.block)
        self._operator = operator

    def with_block(self, block: int) -> Settings:
        """The same settings with another number of rows."""
        return Settings(
            self._operator, self.rank, block=block, tol=self.tol, max_products=self.max_products
        )


@dataclass
class Running:
    """What is remembered of each of the A samples that are still running.

    Attributes:
        index: `[A]`, int64 on the CPU, their places in the batch.
        scale: `[A]`, float64, the power of two near the size of J that is their unit.
        neglected: `[A]`, float64, norm of the largest row that random rows have replaced.
        earlier: `[A, 2]`, float64, residual norms of the last two tests, the older one first.
        breakdown: `[A]`, bool, whether what it brought beyond was nothing but rounding.
        exhausted: `[A]`, bool, whether two steps in a row broke down.
        outside: `[A]`, float64, bound on the largest eigenvalue of A outside the basis.
        certain: `[A]`, bool, whether `outside` has been looked for; else it is not used.
    """

    index: torch.Tensor
    scale: torch.Tensor
    neglected: torch.Tensor
    earlier: torch.Tensor
    breakdown: torch.Tensor
    exhausted: torch.Tensor
    outside: torch.Tensor
    certain: torch.Tensor

    @classmethod
    def at_the_start(cls, index: torch.Tensor, device: torch.device) -> Running:
        """The samples at these places in the batch, before the first step."""
        # Each a tensor of its own: some are written to in part.
        zeros = torch.zeros(3, len(index), dtype=torch.float64, device=device).unbind()
        no = torch.zeros(3, len(index), dtype=torch.bool, device=device).unbind()
        earlier = torch.full((len(index), 2), math.inf, dtype=torch.float64, device=device)
        return cls(
            index=index,
            scale=zeros[0],
            neglected=zeros[1],
            earlier=earlier,
            breakdown=no[0],
            exhausted=no[1],
            outside=zeros[2],
            certain=no[2],
        )

    def outside_or(self, guess: torch.Tensor) -> torch.Tensor:
        """`outside` where it has been looked for, and a guess `[A]` elsewhere."""
        return torch.where(self.certain, self.outside, guess)

    def __len__(self) -> int:
        """Samples still running."""
        return len(self.index)

    def select(self, rows: torch.Tensor) -> Running:
        """Some of them, at int64 indices on the CPU."""
        return Running(*(getattr(self, field.name)[rows] for field in fields(self)))
