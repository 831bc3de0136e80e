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
        rounding: what it may add to a product, relative to the largest eigenvalue of A.
        keep_images: whether J V is kept beside V.
        last_step: products that the answer takes once it has been found.
        floor: relative residual below which rounding hides everything.
        capacity: rows of V at most.
        kept: Ritz vectors that stay when V is full.
    """

    def __init__(
        self,
        operator: BlockOperator,
        rank: int,
        *,
        block: int,
        tol: float,
        max_products: int,
        wider: int = 0,
    ) -> None:
        self.rank, self.tol, self.max_products = rank, tol, max_products
        self.n, self.m = math.prod(operator.x_shape), math.prod(operator.h_shape)
        self.block = min(block, rank + 4, self.n)
        self.dtype = torch.float64 if operator.dtype == torch.float64 else torch.float32
        self.eps = torch.finfo(operator.dtype).eps
        # In half precision J v_i taken afresh is far more accurate than a sum of stored images,
        # and rounding, which is once per layer there, disturbs the iteration less than eps says.
        self.keep_images = operator.dtype == self.dtype
        self.last_step = 0 if self.keep_images else rank
        # Sums in float64 add up in float64, those of narrower products in something wider.
        self.rounding = self.eps * (64 if operator.dtype == torch.float64 else 4)
        self.floor = self.eps * (8 if self.keep_images else 0.5)
        self.capacity = max(4 * rank, rank + 10 * self.block)
        self.kept = rank + 2 * self.block
        self._operator, self._wider = operator, wider

    def wider(self) -> Settings:
        """The same settings with more rows: first one more, then twice as many."""
        block = self.block + 1 if self._wider == 0 else 2 * self.block
        return Settings(
            self._operator,
            self.rank,
            block=block,
            tol=self.tol,
            max_products=self.max_products,
            wider=self._wider + 1,
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
        patience: `[A]`, int64 on the CPU, products before which that is not looked for again.
        certain: `[A]`, bool, whether `outside` may be relied on; else it is a guess.
        inner: `[A]`, float64, what rounding inside the operator adds to residuals; NaN until it has
            been measured.
    """

    index: torch.Tensor
    scale: torch.Tensor
    neglected: torch.Tensor
    earlier: torch.Tensor
    breakdown: torch.Tensor
    exhausted: torch.Tensor
    outside: torch.Tensor
    patience: torch.Tensor
    certain: torch.Tensor
    inner: torch.Tensor

    @classmethod
    def at_the_start(cls, batch: int, device: torch.device) -> Running:
        """Every sample, before the first step."""
        # Each a tensor of its own: some are written to in part.
        zeros = torch.zeros(3, batch, dtype=torch.float64, device=device).unbind()
        no = torch.zeros(3, batch, dtype=torch.bool, device=device).unbind()
        earlier = torch.full((batch, 2), math.inf, dtype=torch.float64, device=device)
        return cls(
            index=torch.arange(batch, device="cpu"),
            scale=zeros[0],
            neglected=zeros[1],
            earlier=earlier,
            breakdown=no[0],
            exhausted=no[1],
            outside=zeros[2],
            patience=torch.zeros(batch, dtype=torch.int64, device="cpu"),
            certain=no[2],
            inner=torch.full_like(zeros[0], math.nan),
        )

    def __len__(self) -> int:
        """Samples still running."""
        return len(self.index)

    def select(self, rows: torch.Tensor) -> Running:
        """Some of them, at int64 indices on the CPU."""
        return Running(*(getattr(self, field.name)[rows] for field in fields(self)))
