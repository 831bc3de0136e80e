"""The randomized block Krylov iteration behind `pullback.krylov.svd`.

The basis is built on the side of x alone: with A = JᵀJ every step multiplies one block of b rows
by A, orthonormalises what is new in it against all that came before, and diagonalises the
projection T of A. All samples step together; those that are done leave and cost no more products.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

import pullback_ext
from pullback.krylov.blocks import rotate, unit_rows
from pullback.krylov.decomposition import Decomposition
from pullback.krylov.triplets import Found, angle_bound, power_of_two, triplets, zero_level

if TYPE_CHECKING:
    from pullback.krylov import BlockOperator


#: Norm of the random part of the start beside that of the given vectors.
_RANDOM_SHARE = 0.1


def _gaussian(rows: int, columns: int, seed: int, draw: int) -> torch.Tensor:
    """Gaussian numbers [rows, columns], float32 on the CPU, different for every seed and draw."""
    generator = torch.Generator("cpu").manual_seed((seed * 1_000_003 + draw) % 2**63)
    return torch.randn(rows, columns, generator=generator, dtype=torch.float32, device="cpu")


def release(operator: BlockOperator) -> None:
    """Let an operator free what it keeps between products, if it keeps anything."""
    free = getattr(operator, "release", None)
    if free is not None:
        free()


def prepare(operator: BlockOperator, columns: int) -> None:
    """Let an operator get ready for many products of one width, if it can."""
    ready = getattr(operator, "prepare", None)
    if ready is not None:
        ready(columns)


class BlockKrylov:
    """The iteration on all samples that are still running.

    `state` is their Krylov decomposition. It keeps the images J V too, so that the left vectors
    cost no products at the end. A and J are in units of `scale`, a power of two near the size of J.
    """

    def __init__(
        self,
        operator: BlockOperator,
        rank: int,
        *,
        tol: float,
        block: int,
        max_products: int,
        seed: int,
    ) -> None:
        self.operator, self.rank, self.tol, self.seed = operator, rank, tol, seed
        self.n, self.m = math.prod(operator.x_shape), math.prod(operator.h_shape)
        self.block, self.max_products = min(block, rank + 4, self.n), max_products
        self.work = torch.float64 if operator.dtype == torch.float64 else torch.float32
        self.eps = torch.finfo(operator.dtype).eps
        # In half precision J v_i taken afresh is far more accurate than a sum of stored images,
        # and rounding, which is once per layer there, disturbs the iteration less than eps says.
        self.keep_images = operator.dtype == self.work
        self.floor = self.eps * (8 if self.keep_images else 0.5)
        self.index = torch.arange(
            operator.batch, device="cpu"
        )  # which samples the rows of the state belong to
        self.products = torch.zeros(operator.batch, dtype=torch.int64, device="cpu")
        self.found = Found(operator, rank, self.work)
        self.worst = math.inf
        self.draws = 0

    @property
    def active(self) -> int:
        """Samples still running."""
        return len(self.index)

    def random_rows(self, count: int) -> torch.Tensor:
        """Gaussian rows [B, count, n]: the same for every sample, different at every call."""
        self.draws += 1
        rows = _gaussian(count, self.n, self.seed, self.draws)
        return rows.to(self.operator.device, self.work).expand(self.active, count, self.n)

    def start(self, init: torch.Tensor | None) -> None:
        """Set the first block: random rows, beside the given ones if there are any."""
        rows = self.random_rows(self.block)
        if init is not None:
            # Random mixtures of the given vectors: a few multiplications spread them over the
            # whole space that the vectors span. The random rest finds what the vectors lack.
            given = unit_rows(init.to(self.operator.device, self.work).flatten(2))
            mixed = rotate(self.mixture(given.shape[1]), given)
            rows = unit_rows(mixed) + _RANDOM_SHARE * unit_rows(rows)
        first = pullback_ext.orthonormalize(rows, seed=self.next_seed()).q
        prepare(self.operator, first.shape[1])
        self.capacity = max(3 * self.rank, self.rank + 6 * self.block)
        self.state = Decomposition(first, self.capacity, self.m if self.keep_images else None)
        self.scale = first.new_zeros(len(first), dtype=torch.float64)
        self.spreads = [torch.full_like(self.scale, math.inf) for _ in range(2)]
        self.dropped = torch.zeros_like(self.scale)
        self.dry = self.lost = torch.zeros_like(self.scale, dtype=torch.bool)

    def mixture(self, count: int) -> torch.Tensor:
        """Gaussian coefficients [B, b, count], the same for every sample."""
        mixing = _gaussian(self.block, count, self.seed, 0)
        return mixing.to(self.operator.device).expand(self.active, self.block, count)

    def next_seed(self) -> int:
        """A seed for the random rows of the kernels, different at every call."""
        self.draws += 1
        return (self.seed * 1_000_003 + self.draws) % 2**63

    def step(self) -> None:
        """Multiply the pending block, extend the projection, and let go who is done."""
        first = self.state.size == 0
        image, product = self._multiply(self.state.pending)
        self.state.extend(image, product, self.random_rows, self.next_seed())
        size = self.state.projection.diagonal(dim1=1, dim2=2).abs().amax(1)
        self._check_symmetry(self.state.skew, size)
        self._watch_for_dry(size, first)
        if self.state.size >= min(self.rank + 1, self.n):
            self._test()

    def _watch_for_dry(self, size: torch.Tensor, first: bool) -> None:
        """Notice samples whose basis A maps into itself.

        Such a basis teaches nothing new, and may still miss a direction (of an eigenvalue with
        more copies than a block has rows): a sample stops there only if the next block, drawn
        from what rounding left or at random, brings nothing new either.
        """
        news = self.state.news
        dry = news <= max(self.floor, min(max(1024 * self.eps, 1e-10), 1e-3)) * size
        lost = news <= self.floor * size
        if self.state.width and bool(lost.any()):
            self.state.renew(lost, self.random_rows, self.next_seed())
            self.dropped = torch.where(lost, torch.maximum(self.dropped, news), self.dropped)
        # One product is not enough either: the random part of a warm start may happen to be
        # nearly orthogonal to a direction that it lacks. The second has it, multiplied by A.
        self.trusted, self.dry = torch.zeros_like(dry) if first else ~dry | self.dry, dry
        self.exhausted, self.lost = lost & self.lost, lost

    def _multiply(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """J rows and A rows, in units of `scale`, which the first block sets."""
        image = self.operator.matmat(rows.unflatten(2, self.operator.x_shape)).flatten(2)
        if self.state.size == 0:
            self.scale = power_of_two(image)
        unit = self.scale[:, None, None]
        image = (image.double() / unit).to(self.work)
        product = self.operator.rmatmat(image.unflatten(2, self.operator.h_shape)).flatten(2)
        product = (product.double() / unit).to(self.work)
        self.products[self.index] += 2 * rows.shape[1]
        if product.device.type == "cpu":  # on CUDA the kernel notices, and nobody waits for it
            self._check_finite(torch.isfinite(product).all())
        return image, product

    def _check_finite(self, finite: torch.Tensor) -> None:
        if not bool(finite):
            raise FloatingPointError(
                "A product with the Jacobian contains NaN or Inf although x is finite. The usual "
                f"cause is an overflow in {self.operator.dtype}: run the network in float32, or "
                "in bfloat16 instead of float16."
            )

    def _check_symmetry(self, skew: torch.Tensor, size: torch.Tensor) -> None:
        if bool((skew > 64 * self.eps**0.5 * size).any()):
            raise ValueError(
                "matmat and rmatmat do not belong to one operator: the projection of JᵀJ is not "
                f"symmetric (by {float(skew.max()):.1e} where its size is "
                f"{float(size.max()):.1e}). Check that rmatmat is the transpose of matmat and "
                "that both are linear and deterministic."
            )

    def _test(self) -> None:
        """Ritz values, the angle bound, who stops and why; then a restart if the basis is full."""
        self._check_finite(self.state.finite.all())
        values, vectors = pullback_ext.ritz(self.state.projection)
        values = values.clamp_min(0.0)
        residual = vectors @ self.state.coupling.mT
        leading = vectors[:, : self.rank]
        ranks = torch.full_like(self.index, self.rank)
        top = values[:, 0]
        low = values[:, self.rank - 1] <= 64 * torch.finfo(self.work).eps * top
        for row in torch.nonzero(low).flatten().tolist():
            ranks[row] = self._numerical_rank(row, leading[row])
        noise = 4 * self.eps * top + self.dropped
        bound, spread, least = angle_bound(values, residual, ranks, noise)
        if self.rank == self.n:
            bound = torch.zeros_like(bound)  # there is only one space of n dimensions
        converged = bound <= self.tol
        stalled = (spread > self.spreads[0] / 2) & (spread <= min(100 * self.eps, 1e-2) * top)
        complete = torch.full_like(self.exhausted, self.state.width == 0)
        # At the level of rounding more products help only where the gap is wide enough for tol.
        settled = (spread <= self.floor * top) & (least > self.tol) & torch.isfinite(least)
        floor = settled | stalled | self.exhausted | complete
        following = self.products[self.index] + 2 * self.state.width
        stop = (self.trusted | complete) & (converged | floor) | (following > self.max_products).to(
            floor.device
        )
        self.worst = float(bound[~stop].max()) if not bool(stop.all()) else float(bound.max())
        self.spreads = [self.spreads[1], spread]
        if bool(stop.any()):
            residual = residual[:, : self.rank]
            reasons = [
                "converged" if c else "floor" if f else "max_products"
                for c, f in zip(converged.tolist(), floor.tolist(), strict=True)
            ]
            self._finish(stop, leading, residual, values, bound, converged, reasons)
            self._keep(~stop)
            values, vectors = values[~stop], vectors[~stop]
        kept = self.rank + math.ceil(self.block / 4)
        full = self.state.size + self.state.width > self.capacity
        if self.active and full and self.state.size > kept:
            self.state.restart(values[:, :kept], vectors[:, :kept])

    def _numerical_rank(self, row: int, leading: torch.Tensor) -> int:
        """How many of the leading Ritz vectors of one sample J does not send to zero."""
        images = self._images(torch.tensor([row], device="cpu"), leading.unsqueeze(0))
        sizes = torch.linalg.svdvals(images.double())[0]
        return int((sizes > zero_level(self.work) * sizes[0]).sum())

    def _images(self, rows: torch.Tensor, leading: torch.Tensor) -> torch.Tensor:
        """J applied to the Ritz vectors `leading` [B', k, d] of the samples at `rows`."""
        if self.keep_images:
            return rotate(leading, self.state.images[rows])
        vectors = rotate(leading, self.state.basis[rows]).unflatten(2, self.operator.x_shape)
        chosen = self.operator.select(rows.to(self.operator.device))
        images = chosen.matmat(vectors).flatten(2).double()
        self.products[self.index[rows]] += vectors.shape[1]
        return (images / self.scale[rows, None, None]).to(self.work)

    def _finish(
        self,
        stop: torch.Tensor,
        leading: torch.Tensor,
        residual: torch.Tensor,
        values: torch.Tensor,
        bound: torch.Tensor,
        converged: torch.Tensor,
        reasons: list[str],
    ) -> None:
        """Turn the Ritz vectors of the samples that stop into singular triplets."""
        rows = torch.nonzero(stop.cpu()).flatten()
        found = triplets(
            rotate(leading[rows], self.state.basis[rows]),
            self._images(rows, leading[rows]),
            values[rows, : self.rank],
            residual[rows],
        )
        found = replace(found, s=found.s * self.scale[rows].unsqueeze(1))
        # Where s_i = 0 nothing computed so far says how well Jᵀ annihilates u_i: ask it.
        for row in torch.nonzero(found.rank.cpu() < self.rank).flatten().tolist():
            single = self.operator.select(rows[row : row + 1].to(self.operator.device))
            pulled = single.rmatmat(found.u[row : row + 1].unflatten(2, self.operator.h_shape))
            self.products[self.index[rows[row]]] += self.rank
            s, v = found.s[row], found.v[row].double()
            gap = pulled.flatten(2)[0].double() - s.unsqueeze(1) * v
            found.residual[row] = torch.linalg.vector_norm(gap, dim=1) / (s[0] if s[0] > 0 else 1)
        reasons = [reasons[row] for row in rows.tolist()]
        self.found.put(self.index[rows], found, bound[rows], converged[rows], reasons)

    def _keep(self, stay: torch.Tensor) -> None:
        """Go on with some of the samples only."""
        rows = torch.nonzero(stay.cpu()).flatten()
        whole = self.operator
        if len(rows):
            self.operator = whole.select(rows.to(whole.device))
        # What is kept for the larger batch would stand idle beside what the smaller one keeps.
        release(whole)
        if len(rows):
            prepare(self.operator, self.block)
        self.index = self.index[rows]
        self.state.select(rows)
        for name in ("scale", "dropped", "dry", "trusted", "lost", "exhausted"):
            setattr(self, name, getattr(self, name)[rows])
        self.spreads = [spread[rows] for spread in self.spreads]
