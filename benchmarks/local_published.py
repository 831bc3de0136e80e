"""The baseline of `local`: two iterations and a projection, as published for local edits.

Chen et al. 2024 (LOCO-Edit, arXiv:2409.02374) take the leading right singular vectors of the rows
of J = dx̂₀/dx inside a region Ω, and those of the rows outside it, and take off the first ones what
lies along the second ones. This is our own implementation of that algorithm, faithful also in what
it spends, since that is what is compared:

* both are the power iteration of `benchmarks.published`, of one sample at a time, at 10 to 50
  iterations and an agreement of 1e-4, with all that is told there;
* the two know nothing of each other: every pass of the one, which computes the whole of x̂₀ and
  gathers its side of the mask, is made again for the other.

Given to it for free: nothing beyond what `benchmarks.published` says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from benchmarks.published import PowerIteration, power_iteration


@dataclass(frozen=True)
class TwoIterations:
    """What the loops and the projection return.

    Attributes:
        v: directions, `[k, n]`, of norm 1.
        inside: the iteration on the rows in the region.
        outside: that on the others.
    """

    v: torch.Tensor
    inside: PowerIteration
    outside: PowerIteration

    @property
    def products(self) -> int:
        """Products with J and with its transpose together."""
        return self.inside.products + self.outside.products


def two_iterations(
    f: Callable[[torch.Tensor], torch.Tensor],
    x: torch.Tensor,
    mask: torch.Tensor,
    rank: int,
    null: int,
    *,
    max_iter: int = 50,
    seed: int = 0,
) -> TwoIterations:
    """Directions at one point that change a region of f(x) and not the rest, as published.

    Args:
        f: maps `[c, *x_shape]` to `[c, *shape]` for any c.
        x: the point, `[1, *x_shape]`, float32.
        mask: the region, bool `[*shape]`.
        rank: k, directions of the region.
        null: directions of the rest that are projected off.
        max_iter: iterations of each loop at most.
        seed: seed of the random starts.

    Cost: that of two `power_iteration`, of ranks k and null.
    """
    inside, outside = (
        power_iteration(_side(f, side), x, count, max_iter=max_iter, seed=seed)
        for side, count in ((mask, rank), (~mask, null))
    )
    left = inside.v - (inside.v @ outside.v.T) @ outside.v
    return TwoIterations(left / left.norm(dim=1, keepdim=True), inside, outside)


def _side(
    f: Callable[[torch.Tensor], torch.Tensor], mask: torch.Tensor
) -> Callable[[torch.Tensor], torch.Tensor]:
    """The entries `[c, r]` of f where a mask is true."""
    places = torch.nonzero(mask.flatten()).flatten()

    def gathered(x: torch.Tensor) -> torch.Tensor:
        return f(x).flatten(1).index_select(1, places.to(x.device))

    return gathered
