"""A second baseline: subspace iteration with oversampling, on the library's own products.

It shows what of the gain comes from fast products and what from the Krylov method.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from pullback.operators import BlockOperator


@dataclass(frozen=True)
class SubspaceIteration:
    """What the iteration returns.

    Attributes:
        v: leading right singular vectors, `[B, k, n]`.
        iterations: `[B]`, int64, those that a sample took.
        products: `[B]`, int64, products with J and with its transpose together.
    """

    v: torch.Tensor
    iterations: torch.Tensor
    products: torch.Tensor


def subspace_iteration(
    operator: BlockOperator,
    rank: int,
    done: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    *,
    oversampling: int | None = None,
    max_iter: int = 200,
    seed: int = 0,
) -> SubspaceIteration:
    """Leading right singular vectors of B operators by subspace iteration on JᵀJ.

    Every step multiplies k + p rows by JᵀJ, makes them orthonormal by QR, and turns them to the
    right singular vectors of the product, the leading k of which are the answer. Samples that are
    done leave.

    Args:
        operator: the operators.
        rank: k, directions per sample.
        done: takes the leading rows `[B', k, n]` of the samples still running and their indices
            `[B']`, and returns which of them are done, `[B']`.
        oversampling: p, rows beside the k (default: half of k).
        max_iter: steps at most.
        seed: seed of the random start, the same for every sample.

    Cost: 2 (k + p) products per step and sample.
    """
    extra = math.ceil(rank / 2) if oversampling is None else oversampling
    n, batch = math.prod(operator.x_shape), operator.batch
    width = min(rank + extra, n)
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(n, width, generator=generator).to(operator.device, operator.dtype)
    rows = torch.linalg.qr(start).Q.T.expand(batch, width, n)
    index = torch.arange(batch, device=operator.device)
    v = rows.new_zeros(batch, rank, n)
    iterations = torch.zeros(batch, dtype=torch.int64, device=operator.device)
    for _ in range(max_iter):
        image = operator.matmat(rows.unflatten(2, operator.x_shape))
        product = operator.rmatmat(image).flatten(2)
        basis, factor = torch.linalg.qr(product.mT)
        turn = torch.linalg.svd(factor.double()).U.to(rows.dtype)
        rows = turn.mT @ basis.mT
        v[index] = rows[:, :rank]
        iterations[index] += 1
        running = torch.nonzero(~done(rows[:, :rank], index)).flatten()
        if len(running) == 0:
            break
        if len(running) < len(index):
            operator, rows, index = operator.select(running), rows[running], index[running]
    return SubspaceIteration(v, iterations, 2 * width * iterations)
