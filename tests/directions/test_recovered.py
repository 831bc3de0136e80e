"""Planted factors are recovered up to the error that so many samples leave, and no better."""

import pytest
import torch

from pullback.directions import from_pairs, pca_of, supervised
from tests.directions.planted import planted, sine

DIMS, COUNT, GAP, DRAWS = 12, 1500, 2.0, 10
WHERE = {"tap": "mid_block", "t": 500, "folds": 0}


def mean_square(found):
    """Of the sines of the angles between pairs of vectors."""
    return float(torch.tensor([sine(*pair) for pair in found]).square().mean())


@pytest.mark.parametrize(
    ("given", "law"),
    [
        # Of the difference of two means, each of half of the samples.
        ({"method": "mean"}, 4 / GAP**2),
        # The covariance within the classes is estimated as well.
        ({"method": "lda", "shrinkage": 0.0}, 4 / GAP**2 + 1),
        # As efficient as the discriminant up to some per cent (Efron 1975, JASA 70:892).
        ({"method": "logistic", "C": 1e3}, (4 / GAP**2 + 1) / 0.9),
    ],
)
def test_classes_in_noise(given, law):
    found = []
    for seed in range(DRAWS):
        features, labels, normal = planted(COUNT, (DIMS,), GAP, seed=seed)
        found.append((supervised(features, labels, **given, **WHERE).direction().vector, normal))
    expected = law * (DIMS - 1) / COUNT
    assert 0.65 * expected < mean_square(found) < 1.5 * expected


def test_pairs_in_noise(rng):
    found = []
    for _ in range(DRAWS):
        normal = torch.randn(DIMS, generator=rng, dtype=torch.float64)
        first, noise = torch.randn(2, COUNT, DIMS, generator=rng, dtype=torch.float64)
        change = GAP * normal / normal.norm() + noise
        found.append((from_pairs(first, first + change, **WHERE).direction().vector, normal))
    expected = (DIMS - 1) / (COUNT * GAP**2)
    assert 0.65 * expected < mean_square(found) < 1.5 * expected


@pytest.mark.parametrize("joint", [True, False])
def test_factors_in_noise(rng, joint):
    """Two factors of one tensor of features `[N, T, C, H, W]`, in noise of deviation 1."""
    steps, shape, deviations = 2, (3, 2, 2), (4.0, 2.0)
    found = ([], [])
    for _ in range(DRAWS):
        frame = torch.linalg.qr(torch.randn(DIMS, 2, generator=rng)).Q.T
        amount = torch.randn(COUNT, 1, 2, generator=rng) * torch.tensor(deviations)
        features = amount @ frame + torch.randn(COUNT, steps, DIMS, generator=rng)
        components = pca_of(
            features.unflatten(2, shape), 2, times=[9, 4], tap="mid_block", joint=joint
        ).components
        assert components.shape == (2, steps, *shape)
        for index in range(2):
            first = components[index].flatten() if joint else components[index, 0].flatten()
            axis = frame[index].repeat(steps) if joint else frame[index]
            found[index].append((first * (first @ axis).sign(), axis))
    dims, factor = (steps * DIMS, steps) if joint else (DIMS, 1)
    large, small = (factor * one**2 + 1 for one in deviations)
    others = small * large / (large - small) ** 2
    for value, pairs in ((large, found[0]), (small, found[1])):
        # Eigenvectors mix as λ μ / (λ − μ)² N with each other one (Anderson 1963).
        expected = (value / (value - 1) ** 2 * (dims - 2) + others) / COUNT
        assert 0.6 * expected < mean_square(pairs) < 1.6 * expected
