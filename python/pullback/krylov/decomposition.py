"""The Krylov decomposition that the iteration builds: storage, one step, restart, selection."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy

import torch

import pullback_ext
from pullback.krylov.blocks import rotate


class Decomposition:
    """A V = T V + Sᵀ W, row by row, for every sample of a batch.

    Rows of the `basis` V [B, d, n] are orthonormal and have been multiplied by A; those of
    `pending`, W [B, r, n], are orthonormal to them and wait. With T [B, d, d] the `projection` and
    S [B, r, d] the `coupling`, the residual of every Ritz vector can be read off S. `images`
    [B, d, m] holds J V where they are kept.
    """

    def __init__(self, first: torch.Tensor, capacity: int, image_size: int | None) -> None:
        """Starts with the orthonormal block `first` [B, b, n], pending; V has no rows yet.

        Args:
            first: the first block.
            capacity: rows of V at most.
            image_size: m, to keep images; None not to.
        """
        batch, width, n = first.shape
        capacity = min(capacity, n)
        self._rows = first.new_empty(batch, min(capacity + width, n), n)
        self._rows[:, :width] = first
        self._images = None
        if image_size is not None:
            self._images = first.new_empty(batch, capacity, image_size)
        self.size, self.width = 0, width
        self.projection = first.new_zeros(batch, 0, 0, dtype=torch.float64)
        self.coupling = first.new_zeros(batch, width, 0, dtype=torch.float64)
        #: [B], the largest norm of a row in what the last product brought that V and W lack.
        self.remainder = first.new_zeros(batch, dtype=torch.float64)
        #: [B], how far the last product's projection was from symmetric.
        self.asymmetry = torch.zeros_like(self.remainder)
        #: [B], whether the last product was finite.
        self.finite = torch.ones_like(self.remainder, dtype=torch.bool)

    @property
    def basis(self) -> torch.Tensor:
        """V, `[B, d, n]`."""
        return self._rows[:, : self.size]

    @property
    def pending(self) -> torch.Tensor:
        """W, `[B, r, n]`."""
        return self._rows[:, self.size : self.size + self.width]

    @property
    def images(self) -> torch.Tensor:
        """J V, `[B, d, m]`."""
        assert self._images is not None
        return self._images[:, : self.size]

    def extend(
        self,
        image: torch.Tensor,
        product: torch.Tensor,
        random_rows: Callable[[int], torch.Tensor],
        seed: int,
    ) -> None:
        """Move W into V, and what A W brings beyond both into W.

        Args:
            image: J W, `[B, r, m]`.
            product: A W, `[B, r, n]`.
            random_rows: gives `[B, count, n]` Gaussian rows for a count.
            seed: of the random rows in place of those that bring nothing.
        """
        d, r = self.size, self.width
        whole = self._rows[:, : d + r]
        left = whole.shape[2] - d - r
        if left >= r:
            step = pullback_ext.block_step(product, self.pending, self.basis, seed)
            following, columns, residual = step.q, step.projection, step.residual
            self.finite = step.passes >= 0
        else:
            # Where fewer dimensions are left than a block has rows, any rows span all of them.
            following = pullback_ext.orthonormalize(random_rows(left), whole, seed).q
            columns = pullback_ext.gram(whole, product)
            residual = pullback_ext.gram(product, following)
            self.finite = product.isfinite().flatten(1).all(1)
        self.remainder = torch.linalg.vector_norm(residual, dim=2).amax(1)
        side, corner = columns[:, :d], columns[:, d:]
        self.asymmetry = (corner - corner.mT).abs().amax((1, 2))
        corner = (corner + corner.mT) / 2
        self.projection = torch.cat(
            [torch.cat([self.projection, side], dim=2), torch.cat([side.mT, corner], dim=2)], dim=1
        )
        self.coupling = torch.nn.functional.pad(residual.mT, (d, 0))
        if self._images is not None:
            self._images[:, d : d + r] = image
        self.size, self.width = d + r, following.shape[1]
        self._put_pending(following)

    def renew(
        self, which: torch.Tensor, random_rows: Callable[[int], torch.Tensor], seed: int
    ) -> None:
        """Let random rows take the place of W in the samples `which` [B]; S is zero there."""
        replacement = pullback_ext.orthonormalize(random_rows(self.width), self.basis, seed).q
        self._put_pending(torch.where(which[:, None, None], replacement, self.pending))
        self.coupling = torch.where(which[:, None, None], 0.0, self.coupling)

    def restart(self, values: torch.Tensor, ritz: torch.Tensor) -> None:
        """Keep the Ritz vectors `ritz` [B, p, d], of Ritz values `values` [B, p], and W."""
        pending = self.pending.clone()
        kept = ritz.shape[1]
        self._rows[:, :kept] = rotate(ritz, self.basis)
        if self._images is not None:
            self._images[:, :kept] = rotate(ritz, self.images)
        self.size = kept
        self._put_pending(pending)
        self.projection = torch.diag_embed(values)
        self.coupling = self.coupling @ ritz.mT

    def part(
        self, rows: torch.Tensor, more: torch.Tensor | None = None, capacity: int = 0
    ) -> Decomposition:
        """The decomposition of the samples at the int64 indices `rows` `[B']`.

        Args:
            rows: which.
            more: `[B', e, n]`, rows to be pending beside W; S is zero there. They need not be
                orthonormal, to each other or to V and W.
            capacity: rows of V at most, if it shall be more than here.
        """
        kept = copy(self)
        kept._rows = self._rows[rows]
        kept._images = None if self._images is None else self._images[rows]
        for name in ("projection", "coupling", "remainder", "asymmetry", "finite"):
            setattr(kept, name, getattr(self, name)[rows])
        if more is not None:
            kept._widen(more, capacity)
        return kept

    def _widen(self, more: torch.Tensor, capacity: int) -> None:
        old, images = self._rows[:, : self.size + self.width], self._images
        batch, _, n = old.shape
        more = pullback_ext.orthonormalize(more, old).q
        width = self.width + more.shape[1]
        capacity = min(max(capacity, self.size + width), n)
        self._rows = old.new_empty(batch, min(capacity + width, n), n)
        self._rows[:, : old.shape[1]] = old
        self._rows[:, old.shape[1] : old.shape[1] + more.shape[1]] = more
        if images is not None:
            self._images = images.new_empty(batch, capacity, images.shape[2])
            self._images[:, : self.size] = images[:, : self.size]
        self.width = width
        self.coupling = torch.nn.functional.pad(self.coupling, (0, 0, 0, more.shape[1]))

    def _put_pending(self, rows: torch.Tensor) -> None:
        self._rows[:, self.size : self.size + self.width] = rows
