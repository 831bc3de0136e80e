"""Subspaces at known angles, and values with a known trend."""

import math

import torch

TIMES = (900, 700, 500, 300, 100)


def turned(angles, rank=3, size=60, seed=0):
    """Rows `[*angles.shape, rank, size]` that leave a common subspace by angles `[N, ...]`.

    What they turn to is orthogonal for different samples, the first dimension, and the same for
    one: two samples at the angle a have the distance √k arccos(cos² a), and one sample at two
    angles has √k |a − b|.
    """
    generator = torch.Generator().manual_seed(seed)
    whole = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))[0]
    samples = len(angles)
    assert rank * (samples + 1) <= size
    common = whole[:rank]
    own = whole[rank : rank * (samples + 1)].reshape(samples, rank, size)
    own = own.reshape(samples, *[1] * (angles.dim() - 1), rank, size)
    a = angles[..., None, None].double()
    return (common * a.cos() + own * a.sin()).float()


def between_samples(angle, rank=3):
    return math.sqrt(rank) * math.acos(math.cos(angle) ** 2)


def trend(rng, samples=8, slope=1.0, noise=0.1, times=TIMES):
    """Values `[N, T]` that grow while t falls."""
    late = torch.linspace(0, 1, len(times))
    return slope * late + noise * torch.randn(samples, len(times), generator=rng)
