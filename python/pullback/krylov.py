"""Randomized block Krylov SVD of a batch of linear operators known only by their products.

The basis is built on the side of x alone: with A = JᵀJ every step multiplies one block of b rows
by A, orthonormalises what is new in it, and diagonalises the projection T of A. All samples step
together; those that have converged leave and cost no more products.

Sources: block Krylov methods for the leading singular vectors (Musco & Musco 2015,
arXiv:1504.05477), small blocks (Chen et al. 2025, arXiv:2508.06486), thick restart (Wu & Simon
2000), reorthogonalised block Gram-Schmidt (Carson et al., arXiv:2010.12058).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

from pullback._blocks import gram, orthonormal_complement, rotate

#: Bounds on the sine of the largest principal angle between the answer and the truth.
QUALITIES = {"draft": 5e-2, "standard": 2e-3, "tight": 1e-4}


class BlockOperator(Protocol):
    """What `svd` needs of an operator: B independent linear maps from x_shape to h_shape.

    `matmat` maps `[B, k, *x_shape]` to `[B, k, *h_shape]`, `rmatmat` is its transpose, and
    `select(index)` is the operator of some of the samples. `JacobianOperator` is one.
    """

    @property
    def batch(self) -> int:
        """Number of samples B."""

    @property
    def x_shape(self) -> tuple[int, ...]:
        """Shape of an input of one sample."""

    @property
    def h_shape(self) -> tuple[int, ...]:
        """Shape of an output of one sample."""

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the products; its epsilon sets the floor of the stopping rule."""

    @property
    def device(self) -> torch.device:
        """Device of the products."""

    def matmat(self, v: torch.Tensor) -> torch.Tensor:
        """J v, `[B, k, *x_shape]` to `[B, k, *h_shape]`."""

    def rmatmat(self, u: torch.Tensor) -> torch.Tensor:
        """Jᵀ u, `[B, k, *h_shape]` to `[B, k, *x_shape]`."""

    def select(self, index: torch.Tensor) -> BlockOperator:
        """The operator of the samples at the int64 indices `[B']`."""


@dataclass(frozen=True)
class Progress:
    """What a `progress=` callback is told after every step.

    `products` is the sum over samples so far, `active` the samples still running and
    `angle_bound` the largest bound among them (inf until there is one).
    """

    products: int
    samples: int
    active: int
    angle_bound: float
    tol: float


@dataclass(frozen=True)
class SVDResult:
    """The leading singular triplets of B operators, with how well and why.

    Attributes:
        u: left singular vectors, `[B, k, m]`, orthonormal rows.
        s: singular values, `[B, k]`, descending; exact zeros beyond the numerical rank.
        v: right singular vectors, `[B, k, n]`, orthonormal rows; in each the entry of largest
            magnitude is positive.
        residual: `[B, k]`, ‖Jᵀu_i − s_i v_i‖ / s_1.
        angle_bound: `[B]`, bound on the sine of the largest principal angle between the span of
            v (its first `rank` rows) and the true leading right singular space.
        converged: `[B]`, bool: the bound is at most `tol`.
        rank: `[B]`, int64: singular values above 1e-4 s_1 (1e-8 s_1 in float64).
        products: `[B]`, int64: products with J and Jᵀ together.
        stopped: per sample "converged", "floor" (the products' own rounding allows no more, or a
            tie s_k = s_{k+1} leaves the space undetermined) or "max_products".
        tol: the bound that was asked for.
    """

    u: torch.Tensor
    s: torch.Tensor
    v: torch.Tensor
    residual: torch.Tensor
    angle_bound: torch.Tensor
    converged: torch.Tensor
    rank: torch.Tensor
    products: torch.Tensor
    stopped: tuple[str, ...]
    tol: float


def tolerance(quality: str, tol: float | None) -> float:
    """The bound on the sine that a quality or an explicit tol stands for.

    Raises:
        ValueError: unknown quality, or tol outside (0, 1).
    """
    if tol is not None:
        if not 0 < tol < 1:
            raise ValueError(
                f"Expected tol between 0 and 1 (a bound on the sine of an angle), got {tol}."
            )
        return float(tol)
    if quality not in QUALITIES:
        known = ", ".join(f'"{name}" ({bound:g})' for name, bound in QUALITIES.items())
        raise ValueError(f"Expected quality to be one of {known}, got {quality!r}.")
    return QUALITIES[quality]


def check_rank(rank: int, n: int, m: int) -> None:
    """Raise unless 1 <= rank <= min(n, m)."""
    if not isinstance(rank, int) or isinstance(rank, bool) or not 1 <= rank <= min(n, m):
        raise ValueError(
            f"Expected rank to be a whole number between 1 and min(n, m) = min({n}, {m}) = "
            f"{min(n, m)}, got {rank!r}."
        )


def default_block(rank: int) -> int:
    """Rows of one block: small blocks need the fewest products.

    It depends on the rank alone and not on the number of samples, so that a sample's answer does
    not depend on its batch.
    """
    return max(2, math.ceil(rank / 2) if rank <= 16 else math.ceil(rank / 5))


def svd(
    operator: BlockOperator,
    rank: int,
    *,
    quality: str = "standard",
    tol: float | None = None,
    init: torch.Tensor | None = None,
    block: int | None = None,
    max_products: int | None = None,
    seed: int = 0,
    progress: Callable[[Progress], None] | None = None,
) -> SVDResult:
    """The leading singular triplets of each of B operators.

    Args:
        operator: any object with the members of `BlockOperator`.
        rank: triplets per sample, at most min(n, m).
        quality: "draft", "standard" or "tight": bounds 5e-2, 2e-3 and 1e-4 on the sine of the
            largest principal angle to the true space.
        tol: an explicit bound instead of a quality.
        init: vectors to start from, `[B, p, *x_shape]`, for example the basis of a neighbouring
            timestep. Random ones are added, so that a direction missing in them is found.
        block: rows multiplied at a time; by default half the rank (a fifth above 16).
        max_products: products per sample after which to stop; by default 100 times the rank.
        seed: seed of the random start, which is the same for every sample.
        progress: called after every step with a `Progress`.

    Returns:
        The triplets, and per sample what was reached and why it stopped.

    Raises:
        ValueError: rank, quality, tol, block or init do not fit the operator, or init is not
            finite.
        FloatingPointError: a product came back with NaN or Inf.

    Cost: about 8 to 11 products per direction at rank 10 and "standard" on a diffusion U-Net;
    memory of (k + 6b) (n + m) numbers per sample at most.
    """
    n, m = math.prod(operator.x_shape), math.prod(operator.h_shape)
    check_rank(rank, n, m)
    bound = tolerance(quality, tol)
    if block is not None and block < 1:
        raise ValueError(f"Expected block to be at least 1, got {block}.")
    if max_products is not None and max_products < 1:
        raise ValueError(f"Expected max_products to be at least 1, got {max_products}.")
    if init is not None:
        _check_init(init, operator)
    solver = _Solver(
        operator,
        rank,
        bound,
        default_block(rank) if block is None else block,
        100 * rank if max_products is None else max_products,
        seed,
    )
    solver.start(init)
    while solver.active:
        solver.step()
        if progress is not None:
            progress(solver.progress())
    return solver.result()


def _check_init(init: torch.Tensor, operator: BlockOperator) -> None:
    shape = operator.x_shape
    if init.dim() != len(shape) + 2 or (init.shape[0], *init.shape[2:]) != (
        operator.batch,
        *shape,
    ):
        expected = ", ".join(map(str, (operator.batch, "p", *shape)))
        raise ValueError(
            f"Expected init of shape [B, p, *x_shape] = [{expected}], got {list(init.shape)}."
        )
    if not torch.isfinite(init).all():
        raise ValueError(
            "init contains NaN or Inf. Expected finite vectors: pass the v of a basis, or leave "
            "init out for a random start."
        )


class _Solver:
    """The block Krylov iteration on all samples that are still running.

    Rows of `basis` [B, d, n] are orthonormal and have been multiplied by A; those of `pending`
    [B, b, n] are orthonormal to them and come next. With T [B, d, d] the `projection` and
    S [B, b, d] the `coupling`, A basis = T basis + Sᵀ pending, row by row: the residual of every
    Ritz vector can be read off S. `images` [B, d, m] keeps J basis, so that the left vectors cost
    no products at the end. A and J are in units of `scale`, a power of two near the size of J.
    """

    def __init__(
        self,
        operator: BlockOperator,
        rank: int,
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
        self.index = torch.arange(operator.batch)  # which samples the rows of the state belong to
        self.products = torch.zeros(operator.batch, dtype=torch.int64)
        self.output = _Output(operator, rank, self.work)
        self.worst = math.inf
        self.draws = 0

    @property
    def active(self) -> int:
        """Samples still running."""
        return len(self.index)

    def progress(self) -> Progress:
        """The state after a step, for the caller's callback."""
        return Progress(
            int(self.products.sum()), len(self.products), self.active, self.worst, self.tol
        )

    def random_rows(self, count: int) -> torch.Tensor:
        """Gaussian rows [B, count, n]: the same for every sample, different at every call."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.draws)
        self.draws += 1
        rows = torch.randn(count, self.n, generator=generator)
        return rows.to(self.operator.device, self.work).expand(self.active, count, self.n)

    def start(self, init: torch.Tensor | None) -> None:
        """Set the first block: random rows, beside the given ones if there are any."""
        if init is None:
            rows = self.random_rows(self.block)
        else:
            # A warm start alone could never leave its span: random rows find what it misses.
            extra = min(max(2, math.ceil(self.block / 2)), self.n - 1)
            given = init.to(self.operator.device, self.work).flatten(2)[:, : self.n - extra]
            rows = torch.cat([given, self.random_rows(extra)], dim=1)
        self.pending = orthonormal_complement(rows, [], self.random_rows)
        batch, width = rows.shape[:2]
        self.capacity = min(max(3 * self.rank, self.rank + 6 * width), self.n)
        self.basis = rows.new_zeros(batch, 0, self.n)
        self.images = rows.new_zeros(batch, 0, self.m)
        self.projection = rows.new_zeros(batch, 0, 0, dtype=torch.float64)
        self.coupling = rows.new_zeros(batch, width, 0, dtype=torch.float64)
        self.scale = rows.new_zeros(batch, dtype=torch.float64)
        self.spreads = [torch.full_like(self.scale, math.inf) for _ in range(2)]
        self.dropped = torch.zeros_like(self.scale)
        self.dry = self.lost = torch.zeros_like(self.scale, dtype=torch.bool)

    def step(self) -> None:
        """Multiply the pending block, extend the projection, and let go who is done."""
        image, product = self._multiply(self.pending)
        side, corner = gram(self.basis, product), gram(self.pending, product)
        skew = (corner - corner.mT).abs().amax((1, 2))
        rest = product - rotate(side.mT, self.basis) - rotate(corner.mT, self.pending)
        corner = (corner + corner.mT) / 2
        self.projection = torch.cat(
            [torch.cat([self.projection, side], dim=2), torch.cat([side.mT, corner], dim=2)], dim=1
        )
        spanned = [self.basis, self.pending]
        left = self.n - self.basis.shape[1] - self.pending.shape[1]
        # Where fewer dimensions are left than a block has rows, any rows span all of them.
        rows = rest if left >= rest.shape[1] else self.random_rows(left)
        size = self.projection.diagonal(dim1=1, dim2=2).abs().amax(1)
        self._check_symmetry(skew, size)
        # A basis that A maps into itself teaches nothing new, and may still miss a direction (of
        # an eigenvalue with more copies than a block has rows): a sample stops there only if the
        # next block, drawn from what rounding left or at random, brings nothing new either.
        news = torch.linalg.vector_norm(rest, dim=2).amax(1).double()
        dry = news <= max(self.floor, min(max(1024 * self.eps, 1e-10), 1e-3)) * size
        lost = news <= self.floor * size
        if bool(lost.any()):
            rows = torch.where(lost[:, None, None], self.random_rows(rows.shape[1]), rows)
            self.dropped = torch.where(lost, torch.maximum(self.dropped, news), self.dropped)
        # Nor is one product with the random rows enough: each may happen to be nearly orthogonal
        # to a direction that a warm start lacks. The second one has it, multiplied by A.
        first = self.basis.shape[1] == 0
        self.trusted, self.dry = torch.zeros_like(dry) if first else ~dry | self.dry, dry
        self.exhausted, self.lost = lost & self.lost, lost
        fresh = orthonormal_complement(rows, spanned, self.random_rows)
        zeros = side.new_zeros(self.active, fresh.shape[1], self.basis.shape[1])
        self.coupling = torch.cat([zeros, gram(fresh, product)], dim=2)
        self.basis, self.pending = torch.cat(spanned, dim=1), fresh
        if self.keep_images:
            self.images = torch.cat([self.images, image], dim=1)
        if self.basis.shape[1] >= min(self.rank + 1, self.n):
            self._test()

    def _multiply(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """J rows and A rows, in units of `scale`, which the first block sets."""
        image = self.operator.matmat(rows.unflatten(2, self.operator.x_shape)).flatten(2)
        if self.basis.shape[1] == 0:
            self.scale = _power_of_two(image)
        unit = self.scale[:, None, None]
        image = (image.double() / unit).to(self.work)
        product = self.operator.rmatmat(image.unflatten(2, self.operator.h_shape)).flatten(2)
        product = (product.double() / unit).to(self.work)
        self.products[self.index] += 2 * rows.shape[1]
        if not bool(torch.isfinite(image).all() & torch.isfinite(product).all()):
            raise FloatingPointError(
                "A product with the Jacobian contains NaN or Inf although x is finite. The usual "
                f"cause is an overflow in {self.operator.dtype}: run the network in float32, or "
                "in bfloat16 instead of float16."
            )
        return image, product

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
        values, vectors = torch.linalg.eigh(self.projection)
        values, vectors = values.flip(1).clamp_min(0.0), vectors.flip(2)
        residual = vectors.mT @ self.coupling.mT
        leading = vectors[:, :, : self.rank].mT
        ranks = torch.full_like(self.index, self.rank)
        top = values[:, 0]
        low = values[:, self.rank - 1] <= 64 * torch.finfo(self.work).eps * top
        for row in torch.nonzero(low).flatten().tolist():
            ranks[row] = self._numerical_rank(row, leading[row])
        noise = 4 * self.eps * top + self.dropped
        bound, spread, apart = _angle_bound(values, residual, ranks, noise)
        if self.rank == self.n:
            bound = torch.zeros_like(bound)  # there is only one space of n dimensions
        converged = bound <= self.tol
        stalled = (spread > self.spreads[0] / 2) & (spread <= min(100 * self.eps, 1e-2) * top)
        complete = torch.full_like(self.exhausted, self.pending.shape[1] == 0)
        settled = (spread <= self.floor * top) & apart
        floor = settled | stalled | self.exhausted | complete
        following = self.products[self.index] + 2 * self.pending.shape[1]
        stop = (self.trusted | complete) & (converged | floor) | (following > self.max_products).to(floor.device)
        self.worst = float(bound[~stop].max()) if not bool(stop.all()) else float(bound.max())
        self.spreads = [self.spreads[1], spread]
        if bool(stop.any()):
            residual = residual[:, : self.rank]
            self._finish(stop, leading, residual, values, bound, converged, floor)
            self._keep(~stop)
            values, vectors = values[~stop], vectors[~stop]
        kept = self.rank + math.ceil(self.block / 4)
        full = self.basis.shape[1] + self.pending.shape[1] > self.capacity
        if self.active and full and self.basis.shape[1] > kept:
            self._restart(values[:, :kept], vectors[:, :, :kept].mT)

    def _numerical_rank(self, row: int, leading: torch.Tensor) -> int:
        """How many of the leading Ritz vectors of one sample J does not send to zero."""
        images = self._images(torch.tensor([row]), leading.unsqueeze(0))
        sizes = torch.linalg.svdvals(images.double())[0]
        return int((sizes > zero_level(self.work) * sizes[0]).sum())

    def _images(self, rows: torch.Tensor, leading: torch.Tensor) -> torch.Tensor:
        """J applied to the Ritz vectors `leading` [B', k, d] of the samples at `rows`."""
        if self.keep_images:
            return rotate(leading, self.images[rows])
        vectors = rotate(leading, self.basis[rows]).unflatten(2, self.operator.x_shape)
        images = self.operator.select(rows).matmat(vectors).flatten(2).double()
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
        floor: torch.Tensor,
    ) -> None:
        """Turn the Ritz vectors of the samples that stop into singular triplets."""
        rows = torch.nonzero(stop.cpu()).flatten()
        leading, scale = leading[rows], self.scale[rows].unsqueeze(1)
        right = rotate(leading, self.basis[rows])
        # One Rayleigh-Ritz step on J itself: JᵀJ squares the singular values and their errors.
        left, factor = torch.linalg.qr(self._images(rows, leading).mT)
        turn, s, across = torch.linalg.svd(factor.mT.double())
        v, u = rotate(turn.mT, right), rotate(across, left.mT)
        mismatch = turn.mT @ (values[rows, : self.rank, None] * turn) - torch.diag_embed(s**2)
        error = torch.linalg.vector_norm(
            torch.cat([turn.mT @ residual[rows], mismatch], dim=2), dim=2
        )
        smallest = zero_level(self.work) * s[:, :1]
        s = torch.where(s > smallest, s, 0.0)
        rank = (s > 0).sum(1)
        error = torch.where(s > 0, error / torch.where(s > 0, s, 1.0), 0.0)
        relative = error / torch.where(s[:, :1] > 0, s[:, :1], 1.0)
        sign = _signs(v)
        u, v, s = u * sign, v * sign, s * scale
        # Where s_i = 0 nothing above says how well u_i is annihilated by Jᵀ: ask it.
        for row in torch.nonzero(rank < self.rank).flatten().tolist():
            single = self.operator.select(rows[row : row + 1].to(self.operator.device))
            pulled = single.rmatmat(u[row : row + 1].unflatten(2, self.operator.h_shape))
            self.products[self.index[rows[row]]] += self.rank
            gap = pulled.flatten(2)[0].double() - s[row, :, None] * v[row].double()
            largest = s[row, 0] if s[row, 0] > 0 else 1.0
            relative[row] = torch.linalg.vector_norm(gap, dim=1) / largest
        reasons = [
            "converged" if c else "floor" if f else "max_products"
            for c, f in zip(converged[rows].tolist(), floor[rows].tolist(), strict=True)
        ]
        self.output.put(
            self.index[rows], u, s, v, relative, bound[rows], converged[rows], rank, reasons
        )

    def _keep(self, stay: torch.Tensor) -> None:
        """Go on with some of the samples only."""
        rows = torch.nonzero(stay.cpu()).flatten()
        if len(rows):
            self.operator = self.operator.select(rows.to(self.operator.device))
        self.index = self.index[rows]
        for name in (
            "basis", "images", "pending", "projection", "coupling", "scale",
            "dropped", "dry", "trusted", "lost", "exhausted",
        ):  # fmt: skip
            setattr(self, name, getattr(self, name)[rows])
        self.spreads = [spread[rows] for spread in self.spreads]

    def _restart(self, values: torch.Tensor, ritz: torch.Tensor) -> None:
        """Thick restart: keep the leading Ritz vectors [B, p, d] and the pending block."""
        self.basis = rotate(ritz, self.basis)
        if self.keep_images:
            self.images = rotate(ritz, self.images)
        self.projection = torch.diag_embed(values)
        self.coupling = self.coupling @ ritz.mT

    def result(self) -> SVDResult:
        """What was found, once no sample is running."""
        return self.output.result(self.products, self.tol)


class _Output:
    """Collects the samples' triplets as they finish, in the order of the batch."""

    def __init__(self, operator: BlockOperator, rank: int, work: torch.dtype) -> None:
        batch, device = operator.batch, operator.device
        n, m = math.prod(operator.x_shape), math.prod(operator.h_shape)
        self.u = torch.empty(batch, rank, m, dtype=work, device=device)
        self.v = torch.empty(batch, rank, n, dtype=work, device=device)
        self.s = torch.empty(batch, rank, dtype=work, device=device)
        self.residual = torch.empty(batch, rank, dtype=work, device=device)
        self.angle_bound = torch.empty(batch, dtype=torch.float64, device=device)
        self.converged = torch.empty(batch, dtype=torch.bool, device=device)
        self.rank = torch.empty(batch, dtype=torch.int64, device=device)
        self.stopped = [""] * batch

    def put(self, index: torch.Tensor, *fields: object) -> None:
        """Store the fields of some samples, in the order u, s, v, ..., rank, reasons."""
        names = ("u", "s", "v", "residual", "angle_bound", "converged", "rank")
        *tensors, reasons = fields
        for name, value in zip(names, tensors, strict=True):
            target = getattr(self, name)
            target[index.to(target.device)] = value.to(target)
        for sample, reason in zip(index.tolist(), reasons, strict=True):
            self.stopped[sample] = reason

    def result(self, products: torch.Tensor, tol: float) -> SVDResult:
        """The result over all samples."""
        return SVDResult(
            self.u, self.s, self.v, self.residual, self.angle_bound, self.converged, self.rank,
            products.to(self.rank.device), tuple(self.stopped), tol,
        )  # fmt: skip


def zero_level(dtype: torch.dtype) -> float:
    """Singular values up to this fraction of the largest are zero: JᵀJ resolves no smaller."""
    return 1e-8 if dtype == torch.float64 else 1e-4


def _power_of_two(image: torch.Tensor) -> torch.Tensor:
    """Per sample the power of two just above the largest row norm of `image` (1 for zeros)."""
    largest = torch.linalg.vector_norm(image.double(), dim=2).amax(1)
    exponent = torch.frexp(largest).exponent
    return torch.ldexp(torch.ones_like(largest), exponent)


def _signs(v: torch.Tensor) -> torch.Tensor:
    """±1 per row [B, k, 1], so that the entry of largest magnitude becomes positive."""
    largest = v.abs().argmax(dim=2, keepdim=True)
    return torch.where(v.gather(2, largest) < 0, -1.0, 1.0).to(v.dtype)


def _angle_bound(
    values: torch.Tensor,
    residual: torch.Tensor,
    ranks: torch.Tensor,
    noise: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The bound on the sine of the leading space, ‖R‖₂, and whether no other value may overtake.

    With R = A V − V Θ the residual of the first r Ritz vectors, the sine is at most
    ‖R‖₂ / (θ_r − θ_{r+1}), and at most (Σ_i ‖R_i‖² / (θ_i − θ_{r+1})²)^½, which is the smaller of
    the two where the leading values are far from the r-th. r is the rank asked for, or the
    numerical rank where that is smaller. The Ritz values beyond r may still be growing (after a
    warm start, for example, which knows its own directions only), so for θ_{r+1} stands the
    largest of them with its residual added.

    Args:
        values: Ritz values `[B, d]`, descending.
        residual: `[B, d, b]`, residuals of all Ritz vectors in coordinates of the pending block.
        ranks: `[B]`, int64, r per sample.
        noise: `[B]`, what rounding may add to the norm of any residual.
    """
    batch, size = values.shape
    place = ranks.to(values.device).unsqueeze(1)
    inside = torch.arange(size, device=values.device) < place
    norms = torch.linalg.vector_norm(residual, dim=2)
    kept = residual.masked_fill(~inside.unsqueeze(2), 0.0)
    # torch has no 2-norm of a block without columns, which stands for an exhausted space.
    spread = torch.linalg.matrix_norm(kept, ord=2) if residual.shape[2] else values.new_zeros(batch)
    following = (values + norms).masked_fill(inside, 0.0).amax(1, keepdim=True)
    gaps = (values - following).clamp_min(0.0)
    smallest = gaps.gather(1, (place - 1).clamp_min(0)).squeeze(1)
    ratios = (norms + noise.unsqueeze(1)) / gaps
    by_row = torch.linalg.vector_norm(ratios.masked_fill(~inside, 0.0), dim=1)
    bound = torch.minimum((spread + noise) / smallest, by_row).nan_to_num(nan=math.inf)
    bound = bound.clamp_max(1.0)  # no sine is larger
    return torch.where(place.squeeze(1) == 0, 0.0, bound), spread, smallest > 0
