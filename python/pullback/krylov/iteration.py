"""The randomized block Krylov iteration behind `pullback.krylov.svd`.

The basis is built on the side of x alone: with A = JᵀJ every step multiplies one block of b rows
by A, orthonormalises what is new in it against all that came before, and diagonalises the
projection T of A. All samples step together; those that are done leave and cost no more products.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch

import pullback_ext
from pullback.krylov.blocks import MOST_ROWS, rotate
from pullback.krylov.decomposition import Decomposition
from pullback.krylov.draws import Draws
from pullback.krylov.outside import Outside
from pullback.krylov.products import (
    check_finite,
    check_symmetric,
    image_of,
    power_of_two,
    pulled,
    pulled_apart,
)
from pullback.krylov.rounding import DRAWS, Probe, nearby
from pullback.krylov.start import first_block
from pullback.krylov.state import Running, Settings
from pullback.krylov.stopping import Decision, Evidence, bound_of, decide
from pullback.krylov.triplets import Results, resolved, triplets, zero_level
from pullback.operators import BlockOperator

#: The bound is not pursued further once it is at most this many times what it would be if the
#: largest eigenvalue outside the basis were known.
_CLOSE_ENOUGH = 1.25


class BlockKrylov:
    """The iteration on some samples of a batch, until all of them have stopped.

    `state` is the Krylov decomposition of those that are running. It keeps the images J V too, so
    that the left vectors cost no products at the end. A and J are in units of `running.scale`.

    Args:
        operator: J, of these samples.
        settings: what is asked for.
        draws: the random numbers.
        results: where what is found is put, with the products it took.
        running: what is known of the samples.
        state: their decomposition.

    Attributes:
        others: iterations of samples that have missed a leading direction: they go on with wider
            blocks, from where they were.
    """

    def __init__(
        self,
        operator: BlockOperator,
        settings: Settings,
        draws: Draws,
        results: Results,
        running: Running,
        state: Decomposition,
    ) -> None:
        self.operator, self.settings, self.draws, self.results = operator, settings, draws, results
        self.running, self.state = running, state
        self.others: list[BlockKrylov] = []
        self.largest_bound = math.inf

    @classmethod
    def begin(
        cls,
        operator: BlockOperator,
        settings: Settings,
        draws: Draws,
        results: Results,
        init: torch.Tensor | None,
    ) -> BlockKrylov:
        """The iteration on all samples, from random rows or from vectors `[B, p, *x_shape]`."""
        first = first_block(operator, settings, draws, init)
        images = settings.m if settings.keep_images else None
        running = Running.at_the_start(operator.batch, operator.device)
        state = Decomposition(first, settings.capacity, images)
        return cls(operator, settings, draws, results, running, state)

    def _random_rows(self, count: int) -> torch.Tensor:
        """Gaussian rows [A, count, n]: the same for every sample, different at every call."""
        rows = self.draws.rows(count, self.settings.n)
        rows = rows.to(self.operator.device, self.settings.dtype)
        return rows.expand(len(self.running), count, self.settings.n)

    def step(self) -> None:
        """Multiply the pending block, extend the projection, and let go who is done."""
        image = image_of(self.operator, self.state.pending)
        if self.state.size == 0:
            self.running.scale = power_of_two(image)
        every = torch.arange(len(self.running), device="cpu")
        image, product = self._pulled(self.operator, image, every)
        self.state.extend(image, product, self._random_rows, self.draws.next_seed())
        size = self.state.projection.diagonal(dim1=1, dim2=2).abs().amax(1)
        check_symmetric(self.state.asymmetry, size, self.settings.eps)
        self._watch_for_breakdown(size)
        if self.state.size >= min(self.settings.rank + 1, self.settings.n):
            self._test()

    def _pulled(
        self, operator: BlockOperator, image: torch.Tensor, rows: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """J w and A w in units of `scale`, from J w of the samples at `rows`; counted."""
        index, unit = self.running.index[rows], self.running.scale[rows]
        image = (image.double() / unit[:, None, None]).to(self.settings.dtype)
        product = pulled(operator, image, unit)
        self.results.count(index, 2 * image.shape[1])
        if product.device.type == "cpu":  # on CUDA the kernel notices, and nobody waits for it
            check_finite(product.isfinite().flatten(1).all(1), index, operator.dtype)
        return image, product

    def _watch_for_breakdown(self, size: torch.Tensor) -> None:
        """Renew the pending rows of samples for which the last product brought only rounding."""
        running, remainder = self.running, self.state.remainder
        breakdown = remainder <= self.settings.floor * size
        if self.state.width and bool(breakdown.any()):
            self.state.renew(breakdown, self._random_rows, self.draws.next_seed())
            larger = torch.maximum(running.neglected, remainder)
            running.neglected = torch.where(breakdown, larger, running.neglected)
        running.exhausted = breakdown & running.breakdown
        running.breakdown = breakdown

    def _test(self) -> None:
        """Ritz values, who stops and why; then a restart if the basis is full."""
        check_finite(self.state.finite, self.running.index, self.operator.dtype)
        values, vectors = pullback_ext.ritz(self.state.projection)
        values = values.clamp_min(0.0)
        ranks = self._ranks(values, vectors)
        residual = vectors @ self.state.coupling.mT
        evidence = self._evidence(values, residual, ranks)
        decision = self._decide(evidence)
        gone = torch.zeros_like(decision.stop)
        room = self.settings.n - self.state.size - self.state.width
        ready = (self._left() >= 2) & (self._products() >= self.running.patience)
        rows = torch.nonzero(decision.doubtful.cpu() & ready).flatten()
        if room >= 1 and len(rows):
            gone = self._look_outside(rows, evidence)
            evidence = self._evidence(values, residual, ranks)
            decision = self._decide(evidence)
        most = DRAWS if self.settings.keep_images else 2 * DRAWS
        rows = torch.nonzero((decision.stop & ~gone).cpu() & (self._left() >= most)).flatten()
        if len(rows) and self._measure_rounding(rows, vectors, evidence, decision.reach):
            evidence = self._evidence(values, residual, ranks)
            decision = self._decide(evidence)
        running = self.running
        stop, bound = decision.stop & ~gone, decision.bound
        going = ~(stop | gone)
        self.largest_bound = float(bound[going].max() if bool(going.any()) else bound.max())
        running.earlier = torch.stack([running.earlier[:, 1], decision.residual_norm], dim=1)
        if bool(stop.any()):
            self._finish(stop, decision, values, vectors, residual)
        if not bool(going.all()):
            self._keep(going)
            values, vectors = values[going], vectors[going]
        kept = self.settings.kept
        full = self.state.size + self.state.width > self.settings.capacity
        if len(self.running) and full and self.state.size > kept:
            self.state.restart(values[:, :kept], vectors[:, :kept])
            self.running.certain = torch.zeros_like(self.running.certain)

    def _products(self) -> torch.Tensor:
        """`[A]`, int64 on the CPU, products so far."""
        return self.results.products[self.running.index]

    def _left(self) -> torch.Tensor:
        """`[A]`, int64 on the CPU, products that each may take before the last step."""
        return self.settings.max_products - self.settings.last_step - self._products()

    def _ranks(self, values: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
        """`[A]`, int64 on the CPU: the rank asked for, or the numerical rank if it is smaller."""
        ranks = torch.full_like(self.running.index, self.settings.rank)
        last = values[:, self.settings.rank - 1]
        low = last <= 64 * torch.finfo(self.settings.dtype).eps * values[:, 0]
        for row in torch.nonzero(low).flatten().tolist():
            ranks[row] = self._resolve(row, values, vectors)
        return ranks

    def _evidence(
        self, values: torch.Tensor, residual: torch.Tensor, ranks: torch.Tensor
    ) -> Evidence:
        """All that is known now."""
        settings, running = self.settings, self.running
        # Until it has been looked for, the largest eigenvalue outside the basis is taken to be a
        # Ritz value, a quarter down those that are not asked for.
        place = ranks.to(values.device)
        quarter = (place + (values.shape[1] - place) // 4).clamp_max(values.shape[1] - 1)
        guess = values.gather(1, quarter.unsqueeze(1)).squeeze(1)
        outside = torch.where(running.certain, running.outside, guess)
        inner, top = running.inner.nan_to_num(posinf=math.inf), values[:, 0]
        evidence = Evidence(
            values=values,
            residual=residual,
            ranks=ranks,
            noise=torch.maximum(settings.rounding * top, inner) + running.neglected,
            hidden=torch.maximum(settings.floor * top, inner),
            outside=outside,
            trusted=running.certain,
            earlier=running.earlier[:, 0],
            exhausted=running.exhausted,
            complete=self.state.width == 0,
            following=self._products() + 2 * self.state.width + settings.last_step,
        )
        # Where singular values are called zero, none outside may be larger.
        zero = evidence.zero(zero_level(settings.dtype), settings.rank)
        return replace(evidence, trusted=running.certain & (outside <= zero))

    def _decide(self, evidence: Evidence) -> Decision:
        settings = self.settings
        return decide(
            evidence,
            n=settings.n,
            tol=settings.tol,
            eps=settings.eps,
            max_products=settings.max_products,
        )

    def _resolve(self, row: int, values: torch.Tensor, vectors: torch.Tensor) -> int:
        """The numerical rank of one sample whose last values JᵀJ does not resolve.

        J resolves them, if its images are kept: then its singular vectors within the basis take
        the place of the Ritz vectors.
        """
        rank, level = self.settings.rank, zero_level(self.settings.dtype)
        if not self.settings.keep_images:
            images = self._images(torch.tensor([row], device="cpu"), vectors[row, None, :rank])
            sizes = torch.linalg.svdvals(images.double())[0]
            return int((sizes > level * sizes[0]).sum())
        sizes, turn = resolved(self.state.images[row : row + 1])
        values[row], vectors[row] = sizes[0].square(), turn[0]
        return min(rank, int((sizes[0] > level * sizes[0, 0]).sum()))

    def _look_outside(self, rows: torch.Tensor, evidence: Evidence) -> torch.Tensor:
        """Bound the largest eigenvalue of A outside the basis of the samples at `rows`.

        Returns:
            `[A]`, bool: in which samples a leading direction lies there.
        """
        settings, running = self.settings, self.running
        gone = torch.zeros(len(running), dtype=torch.bool, device=evidence.values.device)
        start = self.draws.probe(settings.n)
        missing = start.new_zeros(len(running), 1, settings.n).to(gone.device, settings.dtype)
        operator = self.operator.select(rows.to(self.operator.device))
        seen = Outside(self.state.basis[rows], start)
        known = evidence.select(rows)
        last, wider = known.last, self._rows_when_wider()
        tie = bound_of(replace(known, outside=torch.zeros_like(last))).sine >= 1
        hopeful = bound_of(known).sine <= settings.tol
        while len(rows):
            _, product = self._pulled(operator, image_of(operator, seen.vector), rows)
            seen.extend(product, known.values[:, 0])
            upper = bound_of(replace(known, outside=seen.upper)).sine
            lower = bound_of(replace(known, outside=seen.lower)).sine
            zero = known.zero(zero_level(settings.dtype), settings.rank)
            close = (upper <= (_CLOSE_ENOUGH * lower).clamp_min(settings.tol)) & (upper < 1)
            # Where the last value and the next are a tie already, no bound can be had, but
            # neither may a larger value be outside.
            enough = torch.where(tie, seen.upper <= 1.02 * last, close) & (seen.upper <= zero)
            hopeless = hopeful & (lower > settings.tol)
            missed = torch.where(tie, seen.lower > 1.001 * last, lower >= 1)
            missed = (missed | (seen.lower > zero)) & ~enough
            left = self._left()[rows].to(enough.device)
            # What the next step takes, if there can be a wider one.
            missed &= (left >= 2 * wider) & (wider > self.state.width)
            spent = (left < 2) | (seen.steps >= settings.capacity)
            done = missed | enough | hopeless | spent
            if bool(done.any()):
                place = rows.to(done.device)
                running.outside[place[done]] = seen.upper[done]
                running.certain[place[done]] = (enough | (spent & ~hopeless))[done]
                # Two thirds of the products at most are spent on looking outside.
                gone_by = self.results.products[running.index[rows]] + seen.steps
                running.patience[rows[done.cpu()]] = gone_by[done.cpu()]
                gone[place[missed]] = True
                missing[place[missed]] = seen.top()[missed]
                stay = torch.nonzero(~done.cpu()).flatten()
                rows, known = rows[stay], known.select(stay)
                tie, last, hopeful = tie[stay], last[stay], hopeful[stay]
                seen.select(stay)
                operator = operator.select(stay.to(operator.device)) if len(rows) else operator
        if bool(gone.any()):
            lost = torch.nonzero(gone.cpu()).flatten()
            self._go_on_wider(lost, missing[lost])
        return gone

    def _measure_rounding(
        self, rows: torch.Tensor, vectors: torch.Tensor, evidence: Evidence, reach: torch.Tensor
    ) -> bool:
        """Measure what rounding inside the operator does to the samples at `rows` that lack it.

        Returns:
            Whether anything is known that was not known before.
        """
        running = self.running
        unknown = running.inner.isnan() & reach.isfinite().all(1)
        rows = rows[unknown.cpu()[rows]]
        others = nearby(self._operator_of(rows)) if len(rows) else []
        if not others:
            return False
        place = rows.to(reach.device)
        signs = self.draws.signs(DRAWS, reach.shape[1]).to(reach.device)
        state = self.state.part(rows)
        probe = Probe(state, vectors[place], evidence.select(rows), reach[place], signs)
        images = self._images(rows, probe.turn).split(1, dim=1)
        running.inner[place] = probe.noise(pulled_apart(others, images, running.scale[rows]))
        self.results.count(running.index[rows], len(others))
        return True

    def _operator_of(self, rows: torch.Tensor) -> BlockOperator:
        """J of the samples at `rows`."""
        if len(rows) == len(self.running):
            return self.operator
        return self.operator.select(rows.to(self.operator.device))

    def _rows_when_wider(self) -> int:
        """Rows of the next block of samples that have missed a direction."""
        more = max(1, self.settings.wider().block - self.settings.block)
        return min(self.state.width + more, self.settings.n - self.state.size, MOST_ROWS)

    def _go_on_wider(self, rows: torch.Tensor, missing: torch.Tensor) -> None:
        """Let the samples at `rows` go on alone, with the directions `[A', 1, n]` they miss.

        One row more shows one copy more of a value. Where that was not enough before, twice the
        rows do.
        """
        settings = self.settings.wider()
        draws = self.draws.following()
        more = missing
        count = self._rows_when_wider() - self.state.width - 1
        if count:
            random = draws.rows(count, settings.n).to(missing)
            more = torch.cat([missing, random.expand(len(missing), *random.shape)], dim=1)
        state = self.state.part(rows, more, settings.capacity)
        running = self.running.select(rows)
        running.certain = torch.zeros_like(running.certain)
        running.earlier = torch.full_like(running.earlier, math.inf)
        operator = self.operator.select(rows.to(self.operator.device))
        self.others.append(BlockKrylov(operator, settings, draws, self.results, running, state))

    def _images(self, rows: torch.Tensor, leading: torch.Tensor) -> torch.Tensor:
        """J applied to the Ritz vectors `leading` [A', k, d] of the samples at `rows`."""
        if self.settings.keep_images:
            return rotate(leading, self.state.images[rows])
        vectors = rotate(leading, self.state.basis[rows])
        images = image_of(self._operator_of(rows), vectors).double()
        self.results.count(self.running.index[rows], vectors.shape[1])
        return (images / self.running.scale[rows, None, None]).to(self.settings.dtype)

    def _finish(
        self,
        stop: torch.Tensor,
        decision: Decision,
        values: torch.Tensor,
        vectors: torch.Tensor,
        residual: torch.Tensor,
    ) -> None:
        """Turn the Ritz vectors of the samples that stop into singular triplets."""
        rank = self.settings.rank
        rows = torch.nonzero(stop.cpu()).flatten()
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
            self.results.count(self.running.index[rows[row : row + 1]], rank)
            s, v = found.s[row], found.v[row].double()
            gap = pulled.flatten(2)[0].double() - s.unsqueeze(1) * v
            found.residual[row] = torch.linalg.vector_norm(gap, dim=1) / (s[0] if s[0] > 0 else 1)
        reasons = tuple(decision.reasons[row] for row in rows.tolist())
        index, bound = self.running.index[rows], decision.bound[rows]
        converged = torch.tensor([r == "converged" for r in reasons], device=bound.device)
        self.results.put(index, found, bound, converged, reasons)

    def _keep(self, stay: torch.Tensor) -> None:
        """Go on with some of the samples only."""
        rows = torch.nonzero(stay.cpu()).flatten()
        whole = self.operator
        if len(rows):
            self.operator = whole.select(rows.to(whole.device))
        # What is kept for the larger batch would stand idle beside what the smaller one keeps.
        whole._release()
        self.running = self.running.select(rows)
        self.state = self.state.part(rows)
