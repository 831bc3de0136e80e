"""The randomized block Krylov iteration behind `pullback.krylov.svd`.

The basis is built on the side of x alone: with A = JᵀJ every step multiplies one block of b rows
by A, orthonormalises what is new in it against all that came before, and diagonalises the
projection T of A. All samples step together; those that are done leave and cost no more products.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

import torch

import pullback_ext
from pullback.krylov.blocks import rotate, unit_rows
from pullback.krylov.decomposition import Decomposition
from pullback.krylov.draws import Draws
from pullback.krylov.stopping import Decision, Evidence, decide
from pullback.krylov.triplets import Results, power_of_two, triplets, zero_level
from pullback.operators import BlockOperator

#: Norm of the random part of the start beside that of the given vectors.
_RANDOM_SHARE = 0.1


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
        self.capacity = max(3 * rank, rank + 6 * self.block)


@dataclass
class Running:
    """What is remembered of each of the A samples that are still running.

    Attributes:
        index: `[A]`, int64 on the CPU, their places in the batch.
        scale: `[A]`, float64, the power of two near the size of J that is their unit.
        neglected: `[A]`, float64, norm of the largest row that random rows have replaced.
        earlier: `[A, 2]`, float64, residual norms of the last two tests, the older one first.
        invariant: `[A]`, bool, whether A nearly mapped the basis into itself in the last step.
        breakdown: `[A]`, bool, whether what it brought beyond was nothing but rounding.
        confirmed: `[A]`, bool, whether the last product could have shown a missing direction.
        exhausted: `[A]`, bool, whether two steps in a row broke down.
    """

    index: torch.Tensor
    scale: torch.Tensor
    neglected: torch.Tensor
    earlier: torch.Tensor
    invariant: torch.Tensor
    breakdown: torch.Tensor
    confirmed: torch.Tensor
    exhausted: torch.Tensor

    @classmethod
    def whole_batch(cls, batch: int, device: torch.device) -> Running:
        """Every sample, before the first step."""
        zeros = torch.zeros(batch, dtype=torch.float64, device=device)
        no = torch.zeros(batch, dtype=torch.bool, device=device)
        earlier = torch.full((batch, 2), math.inf, dtype=torch.float64, device=device)
        return cls(torch.arange(batch, device="cpu"), zeros, zeros, earlier, no, no, no, no)

    def __len__(self) -> int:
        """Samples still running."""
        return len(self.index)

    def select(self, rows: torch.Tensor) -> Running:
        """Some of them, at int64 indices on the CPU."""
        return Running(*(getattr(self, field.name)[rows] for field in fields(self)))


class BlockKrylov:
    """The iteration on all samples that are still running.

    `state` is their Krylov decomposition. It keeps the images J V too, so that the left vectors
    cost no products at the end. A and J are in units of `running.scale`.

    Args:
        operator: J.
        settings: what is asked for.
        seed: seed of the random rows.
        init: vectors to start from, `[B, p, *x_shape]`, or None.
    """

    def __init__(
        self, operator: BlockOperator, settings: Settings, seed: int, init: torch.Tensor | None
    ) -> None:
        self.operator, self.settings = operator, settings
        self.draws = Draws(seed)
        self.products = torch.zeros(operator.batch, dtype=torch.int64, device="cpu")
        self.results = Results(operator, settings.rank, settings.dtype)
        self.running = Running.whole_batch(operator.batch, operator.device)
        self.largest_bound = math.inf
        first = pullback_ext.orthonormalize(self._start(init), seed=self.draws.next_seed()).q
        operator.prepare(first.shape[1])
        images = settings.m if settings.keep_images else None
        self.state = Decomposition(first, settings.capacity, images)

    def _start(self, init: torch.Tensor | None) -> torch.Tensor:
        """The first block: random rows, beside the given vectors if there are any."""
        rows = self._random_rows(self.settings.block)
        if init is None:
            return rows
        # Random mixtures of the given vectors: a few multiplications spread them over the
        # whole space that the vectors span. The random rest finds what the vectors lack.
        given = unit_rows(init.to(self.operator.device, self.settings.dtype).flatten(2))
        mixing = self.draws.mixture(self.settings.block, given.shape[1]).to(self.operator.device)
        mixed = rotate(mixing.expand(len(given), *mixing.shape), given)
        return unit_rows(mixed) + _RANDOM_SHARE * unit_rows(rows)

    def _random_rows(self, count: int) -> torch.Tensor:
        """Gaussian rows [A, count, n]: the same for every sample, different at every call."""
        rows = self.draws.rows(count, self.settings.n)
        rows = rows.to(self.operator.device, self.settings.dtype)
        return rows.expand(len(self.running), count, self.settings.n)

    def step(self) -> None:
        """Multiply the pending block, extend the projection, and let go who is done."""
        first = self.state.size == 0
        image, product = self._multiply(self.state.pending)
        self.state.extend(image, product, self._random_rows, self.draws.next_seed())
        size = self.state.projection.diagonal(dim1=1, dim2=2).abs().amax(1)
        self._check_symmetric(self.state.asymmetry, size)
        self._watch_for_breakdown(size, first)
        if self.state.size >= min(self.settings.rank + 1, self.settings.n):
            self._test()

    def _multiply(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """J rows and A rows, in units of `scale`, which the first block sets."""
        image = self.operator.matmat(rows.unflatten(2, self.operator.x_shape)).flatten(2)
        if self.state.size == 0:
            self.running.scale = power_of_two(image)
        unit = self.running.scale[:, None, None]
        image = (image.double() / unit).to(self.settings.dtype)
        product = self.operator.rmatmat(image.unflatten(2, self.operator.h_shape)).flatten(2)
        product = (product.double() / unit).to(self.settings.dtype)
        self.products[self.running.index] += 2 * rows.shape[1]
        if product.device.type == "cpu":  # on CUDA the kernel notices, and nobody waits for it
            self._check_finite(torch.isfinite(product).all())
        return image, product

    def _watch_for_breakdown(self, size: torch.Tensor, first: bool) -> None:
        """Notice samples whose basis A maps into itself.

        Such a basis teaches nothing new, and may still miss a direction (of an eigenvalue with
        more copies than a block has rows): a sample stops there only if the next block, drawn
        from what rounding left or at random, brings nothing new either.
        """
        running, eps = self.running, self.settings.eps
        remainder = self.state.remainder
        invariant = remainder <= max(self.settings.floor, min(max(1024 * eps, 1e-10), 1e-3)) * size
        breakdown = remainder <= self.settings.floor * size
        if self.state.width and bool(breakdown.any()):
            self.state.renew(breakdown, self._random_rows, self.draws.next_seed())
            larger = torch.maximum(running.neglected, remainder)
            running.neglected = torch.where(breakdown, larger, running.neglected)
        # One product is not enough either: the random part of a warm start may happen to be
        # nearly orthogonal to a direction that it lacks. The second has it, multiplied by A.
        running.confirmed = torch.zeros_like(invariant) if first else ~invariant | running.invariant
        running.exhausted = breakdown & running.breakdown
        running.invariant, running.breakdown = invariant, breakdown

    def _check_finite(self, finite: torch.Tensor) -> None:
        if not bool(finite):
            raise FloatingPointError(
                "A product with the Jacobian contains NaN or Inf although x is finite. The usual "
                f"cause is an overflow in {self.operator.dtype}: run the network in float32, or "
                "in bfloat16 instead of float16."
            )

    def _check_symmetric(self, asymmetry: torch.Tensor, size: torch.Tensor) -> None:
        if bool((asymmetry > 64 * self.settings.eps**0.5 * size).any()):
            raise ValueError(
                "matmat and rmatmat do not belong to one operator: the projection of JᵀJ is not "
                f"symmetric (by {float(asymmetry.max()):.1e} where its size is "
                f"{float(size.max()):.1e}). Check that rmatmat is the transpose of matmat and "
                "that both are linear and deterministic."
            )

    def _test(self) -> None:
        """Ritz values, who stops and why; then a restart if the basis is full."""
        self._check_finite(self.state.finite.all())
        values, vectors = pullback_ext.ritz(self.state.projection)
        values = values.clamp_min(0.0)
        residual = vectors @ self.state.coupling.mT
        decision = self._decide(values, vectors, residual)
        running = self.running
        stop, bound = decision.stop, decision.bound
        self.largest_bound = float(bound[~stop].max() if not bool(stop.all()) else bound.max())
        running.earlier = torch.stack([running.earlier[:, 1], decision.residual_norm], dim=1)
        if bool(stop.any()):
            self._finish(decision, values, vectors, residual)
            self._keep(~stop)
            values, vectors = values[~stop], vectors[~stop]
        kept = self.settings.rank + math.ceil(self.settings.block / 4)
        full = self.state.size + self.state.width > self.settings.capacity
        if len(self.running) and full and self.state.size > kept:
            self.state.restart(values[:, :kept], vectors[:, :kept])

    def _decide(
        self, values: torch.Tensor, vectors: torch.Tensor, residual: torch.Tensor
    ) -> Decision:
        settings, running = self.settings, self.running
        top = values[:, 0]
        ranks = torch.full_like(running.index, settings.rank)
        low = values[:, settings.rank - 1] <= 64 * torch.finfo(settings.dtype).eps * top
        for row in torch.nonzero(low).flatten().tolist():
            ranks[row] = self._numerical_rank(row, vectors[row, : settings.rank])
        evidence = Evidence(
            values=values,
            residual=residual,
            ranks=ranks,
            noise=4 * settings.eps * top + running.neglected,
            earlier=running.earlier[:, 0],
            confirmed=running.confirmed,
            exhausted=running.exhausted,
            complete=self.state.width == 0,
            unique=settings.rank == settings.n,
            following=self.products[running.index] + 2 * self.state.width,
        )
        return decide(
            evidence,
            tol=settings.tol,
            eps=settings.eps,
            floor=settings.floor,
            max_products=settings.max_products,
        )

    def _numerical_rank(self, row: int, leading: torch.Tensor) -> int:
        """How many of the leading Ritz vectors of one sample J does not send to zero."""
        images = self._images(torch.tensor([row], device="cpu"), leading.unsqueeze(0))
        sizes = torch.linalg.svdvals(images.double())[0]
        return int((sizes > zero_level(self.settings.dtype) * sizes[0]).sum())

    def _images(self, rows: torch.Tensor, leading: torch.Tensor) -> torch.Tensor:
        """J applied to the Ritz vectors `leading` [A', k, d] of the samples at `rows`."""
        if self.settings.keep_images:
            return rotate(leading, self.state.images[rows])
        vectors = rotate(leading, self.state.basis[rows]).unflatten(2, self.operator.x_shape)
        chosen = self.operator.select(rows.to(self.operator.device))
        images = chosen.matmat(vectors).flatten(2).double()
        self.products[self.running.index[rows]] += vectors.shape[1]
        return (images / self.running.scale[rows, None, None]).to(self.settings.dtype)

    def _finish(
        self,
        decision: Decision,
        values: torch.Tensor,
        vectors: torch.Tensor,
        residual: torch.Tensor,
    ) -> None:
        """Turn the Ritz vectors of the samples that stop into singular triplets."""
        rank = self.settings.rank
        rows = torch.nonzero(decision.stop.cpu()).flatten()
        leading = vectors[rows, :rank]
        found = triplets(
            rotate(leading, self.state.basis[rows]),
            self._images(rows, leading),
            values[rows, :rank],
            residual[rows, :rank],
        )
        found = replace(found, s=found.s * self.running.scale[rows].unsqueeze(1))
        # Where s_i = 0 nothing computed so far says how well Jᵀ annihilates u_i: ask it.
        for row in torch.nonzero(found.rank.cpu() < rank).flatten().tolist():
            single = self.operator.select(rows[row : row + 1].to(self.operator.device))
            pulled = single.rmatmat(found.u[row : row + 1].unflatten(2, self.operator.h_shape))
            self.products[self.running.index[rows[row]]] += rank
            s, v = found.s[row], found.v[row].double()
            gap = pulled.flatten(2)[0].double() - s.unsqueeze(1) * v
            found.residual[row] = torch.linalg.vector_norm(gap, dim=1) / (s[0] if s[0] > 0 else 1)
        reasons = tuple(decision.reasons[row] for row in rows.tolist())
        index, bound = self.running.index[rows], decision.bound[rows]
        self.results.put(index, found, bound, bound <= self.settings.tol, reasons)

    def _keep(self, stay: torch.Tensor) -> None:
        """Go on with some of the samples only."""
        rows = torch.nonzero(stay.cpu()).flatten()
        whole = self.operator
        if len(rows):
            self.operator = whole.select(rows.to(whole.device))
        # What is kept for the larger batch would stand idle beside what the smaller one keeps.
        whole.release()
        if len(rows):
            self.operator.prepare(self.settings.block)
        self.running = self.running.select(rows)
        self.state.select(rows)
