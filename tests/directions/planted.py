"""Features of two classes whose difference is known."""

import torch


def planted(count, shape=(6, 4), gap=4.0, *, offset=0.0, seed=0, dtype=torch.float64):
    """Unit noise with the classes `gap` apart along a random normal: features, labels, normal."""
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(shape, generator=generator, dtype=torch.float64)
    normal /= normal.norm()
    labels = torch.arange(count) % 2
    noise = torch.randn(count, *shape, generator=generator, dtype=torch.float64)
    sides = (labels - 0.5).double().reshape(-1, *[1] * len(shape))
    return (offset + noise + gap * sides * normal).to(dtype), labels, normal


def sine(first, second):
    """Of the angle between two vectors, accurate for small ones; below a right angle only."""
    a, b = (one.detach().double().flatten() for one in (first, second))
    a, b = a / a.norm(), b / b.norm()
    assert float(a @ b) > 0
    return float((a - (a @ b) * b).norm())
