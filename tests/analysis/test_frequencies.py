"""Waves of known frequencies, and noise."""

import math

import pytest
import torch

from pullback.analysis import frequencies
from tests.analysis.planted import TIMES


def waves(rng, cycles, shape=(2, 16, 16), samples=6, rank=2):
    """Directions `[N, T, k, *shape]`: at each timestep waves of some cycles across the width."""
    at = torch.arange(shape[-1]) / shape[-1]
    phase = torch.rand(samples, len(cycles), rank, 1, generator=rng)
    found = torch.cos(2 * math.pi * (torch.tensor(cycles).float()[:, None, None] * at + phase))
    found = found.reshape(*found.shape[:3], *[1] * (len(shape) - 1), shape[-1])
    return found.expand(*found.shape[:3], *shape).clone()


@pytest.mark.parametrize("shape", [(2, 16, 16), (3, 2, 8, 16), (2, 16)])
def test_the_mean_frequency_is_that_of_the_wave(rng, shape):
    cycles = (0, 1, 3, 5, 7)
    found = frequencies(waves(rng, cycles, shape), TIMES)
    expected = torch.tensor(cycles) / 16
    torch.testing.assert_close(found.centroid.mean(0), expected.double(), atol=1e-4, rtol=0)
    # All power is in the ring of the wave's frequency, and that of noise is 1 on average.
    for place, own in enumerate(cycles):
        density = found.density[0, place]
        assert int(density.argmax()) == own
        assert float(density.sum() - density[own]) < 1e-6
        assert found.frequency[own] == pytest.approx(own / 16, abs=0.5 / 16)
    assert found.findings[0].verdict == "seen"


def test_noise_has_the_density_of_noise_and_no_trend(rng):
    v = torch.randn(12, 5, 8, 1, 16, 16, generator=rng)
    found = frequencies(v, TIMES)
    torch.testing.assert_close(
        found.density.mean((0, 1)), torch.ones(len(found.frequency)).double(), atol=0.25, rtol=0
    )
    assert found.noise == pytest.approx(float(found.centroid.mean()), rel=0.01)
    assert found.findings[1].verdict == "not shown"
    assert abs(found.findings[0].value["mean"]) < 0.5


def test_the_norm_of_directions_does_not_matter(rng):
    v = waves(rng, (1, 2, 3, 4, 5)) + 0.3 * torch.randn(6, 5, 2, 2, 16, 16, generator=rng)
    scaled = v * torch.rand(6, 5, 2, 1, 1, 1, generator=rng).add(0.1)
    torch.testing.assert_close(
        frequencies(v, TIMES).density, frequencies(scaled, TIMES).density, rtol=1e-4, atol=1e-6
    )


def test_falling_frequencies_are_the_opposite(rng):
    found = frequencies(waves(rng, (7, 6, 5, 4, 3)), TIMES)
    assert found.findings[0].verdict == "opposite"
    assert found.findings[1].verdict == "opposite", "7 cycles are finer than noise"


def test_bad_input_is_refused(rng):
    v = waves(rng, (1, 2, 3, 4, 5))
    v[0, 0, 0] = 0
    with pytest.raises(ValueError, match="other than zero"):
        frequencies(v, TIMES)
    with pytest.raises(ValueError, match="shape"):
        frequencies(torch.ones(4, 5, 2, 8), TIMES)
