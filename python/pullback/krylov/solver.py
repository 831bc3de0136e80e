"""Randomized block Krylov SVD of a batch of linear operators known only by their products.

This is the interface; `_block_krylov` holds the iteration and `_triplets` the small algebra at
its end.

Sources: block Krylov methods for the leading singular vectors (Musco & Musco 2015,
arXiv:1504.05477), small blocks (Chen et al. 2025, arXiv:2508.06486), thick restart (Wu & Simon
2000), reorthogonalised block Gram-Schmidt (Carson et al., arXiv:2010.12058).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from operator import index
from typing import Protocol

import torch

from pullback.krylov.blocks import MOST_ROWS
from pullback.krylov.iteration import BlockKrylov
from pullback_ext.intercept import plain_arithmetic

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


@dataclass(frozen=True, eq=False)
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


def whole(name: str, value: object) -> int:
    """A value as an int, whatever integer type it has.

    Raises:
        ValueError: it is not a whole number.
    """
    try:
        if not isinstance(value, bool):
            return index(value)  # type: ignore[arg-type]
    except TypeError:
        pass
    raise ValueError(f"Expected {name} to be a whole number, got {value!r}.")


def check_rank(rank: int, n: int, m: int) -> int:
    """The rank as an int; raises ValueError unless 1 <= rank <= min(n, m)."""
    if not 1 <= whole("rank", rank) <= min(n, m):
        raise ValueError(
            f"Expected rank to be a whole number between 1 and min(n, m) = min({n}, {m}) = "
            f"{min(n, m)}, got {rank!r}."
        )
    return whole("rank", rank)


def default_block(rank: int) -> int:
    """Rows of one block: small blocks need the fewest products.

    It depends on the rank alone and not on the number of samples, so that a sample's answer does
    not depend on its batch.
    """
    block = max(2, math.ceil(rank / 2) if rank <= 16 else math.ceil(rank / 5))
    return min(block, MOST_ROWS)


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
            timestep: it starts from random mixtures of them with a random part added, which
            finds directions that they lack, and saves about a sixth of the products.
        block: rows multiplied at a time, 2 to 256; by default half the rank (a fifth above 16).
            The fewer rows, the weaker the evidence behind a loose bound.
        max_products: products per sample after which to stop, by default 100 times the rank; the
            first answer takes 2 (rank + 1) in any case.
        seed: seed of the random start, which is the same for every sample.
        progress: called after every step with a `Progress`.

    Returns:
        The triplets, and per sample what was reached and why it stopped.

    Raises:
        ValueError: rank, quality, tol, block or init do not fit the operator, or init is not
            finite.
        FloatingPointError: a product came back with NaN or Inf.

    Cost: about 8 to 11 products per direction at rank 10 and "standard" on a diffusion U-Net;
    memory of (k + 7b) n + (k + 6b) m numbers per sample at most.
    """
    n, m = math.prod(operator.x_shape), math.prod(operator.h_shape)
    rank = check_rank(rank, n, m)
    bound = tolerance(quality, tol)
    seed = whole("seed", seed)
    if block is not None and not 2 <= whole("block", block) <= MOST_ROWS:
        raise ValueError(
            f"Expected block to be at least 2 and at most {MOST_ROWS}, got {block}: from one row "
            "at a time a singular value that occurs twice cannot be told from one that occurs "
            "once, and larger blocks only take more products."
        )
    if max_products is not None and whole("max_products", max_products) < 1:
        raise ValueError(f"Expected max_products to be at least 1, got {max_products}.")
    if init is not None:
        _check_init(init, operator)
    solver = BlockKrylov(
        operator,
        rank,
        tol=bound,
        block=default_block(rank) if block is None else block,
        max_products=100 * rank if max_products is None else max_products,
        seed=seed,
    )
    with torch.no_grad(), plain_arithmetic():
        solver.start(init)
        while solver.active:
            solver.step()
            if progress is not None:
                done = int(solver.products.sum())
                progress(Progress(done, operator.batch, solver.active, solver.worst, bound))
    found = solver.found
    return SVDResult(
        u=found.u,
        s=found.s,
        v=found.v,
        residual=found.residual,
        angle_bound=found.angle_bound,
        converged=found.converged,
        rank=found.rank,
        products=solver.products.to(found.rank.device),
        stopped=tuple(found.stopped),
        tol=bound,
    )


def _check_init(init: torch.Tensor, operator: BlockOperator) -> None:
    if not isinstance(init, torch.Tensor):
        raise TypeError(
            f"Expected init as a tensor, got {type(init).__name__}. Convert it with "
            "torch.as_tensor."
        )
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
