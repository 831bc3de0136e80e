"""Iterations at a moment when all is known: every vector of the basis is an eigenvector of A."""

import torch

from pullback.krylov.decomposition import Decomposition
from pullback.krylov.draws import Draws
from pullback.krylov.iteration import BlockKrylov
from pullback.krylov.state import Running, Settings
from pullback.krylov.triplets import Results
from pullback.testing import MatrixOperator


def iteration(s, size, rank, *, dtype=torch.float64, axes=False, seed=0, tol=1e-3, allowed=1000):
    """An iteration whose basis spans right singular vectors, with random rows pending.

    No product has been counted.

    Args:
        s: singular values of J, `[B, n]`.
        size: of the basis: its vectors belong to the first of the values.
        rank: triplets asked for.
        dtype: of the products.
        axes: whether singular vectors lie along the axes, so that no product has to be rounded.
        seed: of the singular vectors and the random rows.
        tol: bound on the sine that is asked for.
        allowed: products.
    """
    generator = torch.Generator().manual_seed(seed)
    batch, n = s.shape

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    if axes:
        order = torch.stack([torch.randperm(n, generator=generator) for _ in range(batch)])
        q = torch.eye(n, dtype=torch.float64)[order]
        matrices = q.mT @ (s.unsqueeze(2) * q)
    else:
        q = torch.linalg.qr(normal(batch, n, n))[0]
        matrices = s.unsqueeze(2) * q
    operator = MatrixOperator(matrices.to(dtype))
    settings = Settings(operator, rank, block=2, tol=tol, max_products=allowed)
    basis = q[:, :size].to(settings.dtype)
    images = n if settings.keep_images else None
    state = Decomposition(basis, settings.capacity + size, images)
    image = operator.matmat(basis)
    product = operator.rmatmat(image).to(settings.dtype)
    rows = normal(1, size, n).to(settings.dtype)
    state.extend(image, product, lambda count: rows[:, :count].expand(batch, count, n), seed)
    running = Running.at_the_start(batch, operator.device)
    running.scale = torch.ones_like(running.scale)
    results = Results(operator, rank, settings.dtype)
    return BlockKrylov(operator, settings, Draws(seed), results, running, state)
