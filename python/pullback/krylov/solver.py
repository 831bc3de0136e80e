"""Randomized block Krylov SVD of a batch of linear operators known only by their products.

Sources: block Krylov methods for the leading singular vectors (Musco & Musco 2015,
arXiv:1504.05477), small blocks (Chen et al. 2025, arXiv:2508.06486), thick restart (Wu & Simon
2000), reorthogonalised block Gram-Schmidt (Carson et al., arXiv:2010.12058).
"""

from __future__ import annotations

import math

import torch

from pullback import _ranges
from pullback.krylov.draws import Draws
from pullback.krylov.iteration import BlockKrylov
from pullback.krylov.options import (
    PRODUCTS_PER_DIRECTION,
    Progress,
    Report,
    check_block,
    check_init,
    check_rank,
    default_block,
    tolerance,
    whole,
)
from pullback.krylov.result import SVDResult
from pullback.krylov.state import Settings
from pullback.krylov.triplets import Results
from pullback.operators import BlockOperator
from pullback_ext.intercept import plain_arithmetic


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
    progress: Report | None = None,
) -> SVDResult:
    """The leading singular triplets of each of B operators.

    Args:
        operator: the operators, A below; derive your own from `operators.BlockOperator`.
        rank: triplets per sample, at most min(n, m).
        quality: "draft", "standard" or "tight": bounds 5e-2, 2e-3 and 1e-4 on the sine of the
            largest principal angle to the true space.
        tol: an explicit bound instead of a quality.
        init: vectors to start from, `[B, p, *x_shape]`, for example the basis of a neighbouring
            timestep: it starts from random mixtures of them with a random part added, which
            finds directions that they lack, and saves about a tenth of the products.
        block: rows multiplied at a time, 2 to 256; by default half the rank (a fifth above 16).
        max_products: products per sample after which to stop, by default 100 times the rank; the
            first answer takes 2 (rank + 1), rounded up to whole blocks, in any case, in half
            precision rank more, and what singular values of zero leave to be asked (at most 2 rank)
            is not in it.
        seed: seed of the random start, which is the same for every sample.
        progress: called after every step with a `Progress`.

    Returns:
        The triplets, and per sample what was reached and why it stopped.

    Raises:
        TypeError: the operator is none, or init is no tensor.
        ValueError: rank, quality, tol, block or init do not fit the operator, or init is not
            finite.
        FloatingPointError: a product came back with NaN or Inf.

    Cost: about 8 to 11 products per direction at rank 10 and "standard" on a diffusion U-Net;
    memory of (k + 11b) n + (k + 10b) m numbers per sample at most, or 4k (n + m).
    """
    if not isinstance(operator, BlockOperator):
        raise TypeError(
            f"Expected an operator, got {type(operator).__name__}. Pass a JacobianOperator, or "
            "derive your own class from pullback.operators.BlockOperator, which asks for matmat, "
            "rmatmat and select."
        )
    rank = check_rank(rank, math.prod(operator.x_shape), math.prod(operator.h_shape))
    bound = tolerance(quality, tol)
    seed = whole("seed", seed)
    block = default_block(rank) if block is None else check_block(block)
    if max_products is not None and whole("max_products", max_products) < 1:
        raise ValueError(f"Expected max_products to be at least 1, got {max_products}.")
    if init is not None:
        check_init(init, operator)
    budget = PRODUCTS_PER_DIRECTION * rank if max_products is None else max_products
    settings = Settings(operator, rank, block=block, tol=bound, max_products=budget)
    results = Results(operator, rank, settings.dtype)
    with torch.no_grad(), plain_arithmetic(), _ranges.stage(_ranges.SOLVER):
        waiting = [BlockKrylov.begin(operator, settings, Draws(seed), results, init)]
        while waiting:
            solver = waiting.pop()
            while len(solver.running):
                solver.step()
                if progress is not None:
                    active = sum(len(one.running) for one in (solver, *waiting, *solver.others))
                    done = int(results.products.sum())
                    progress(Progress(done, operator.batch, active, solver.largest_bound, bound))
            waiting += solver.others
    return results.complete(bound)
