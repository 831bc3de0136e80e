"""Radii of Gaussian latents, and of latents inside their sphere."""

import pytest
import torch

from pullback.analysis import radius

TIMES = (900, 500, 100)
SIGNAL, SIGMA = torch.tensor([0.1, 0.7, 0.99]), torch.tensor([0.995, 0.714, 0.14])


def latents(rng, scale=1.0, samples=24, shape=(2, 16, 16)):
    clean = torch.randn(samples, *shape, generator=rng)
    noise = torch.randn(samples, 3, *shape, generator=rng)
    levels = [one.reshape(3, 1, 1, 1) for one in (SIGNAL, SIGMA)]
    return clean, scale * (levels[0] * clean[:, None] + levels[1] * noise)


def test_noised_data_have_the_expected_radius(rng):
    clean, x = latents(rng)
    found = radius(x, 0.9 * x, clean, SIGNAL, SIGMA, TIMES)
    squares = clean.flatten(1).double().square().sum(1)
    expected = (SIGNAL[1] ** 2 * squares + SIGMA[1] ** 2 * 512).sqrt().mean()
    assert found.expected[1] == pytest.approx(float(expected), rel=1e-5)
    torch.testing.assert_close(found.norm, x.flatten(2).double().norm(dim=2))
    for ratio in (found.sampled, found.noised):
        torch.testing.assert_close(ratio.mean(0), torch.ones(3).double(), atol=0.02, rtol=0)
    torch.testing.assert_close(found.inverted, 0.9 * found.sampled, rtol=1e-5, atol=0)
    assert [one.verdict for one in found.findings] == ["seen", "seen"]


def test_latents_off_the_sphere_are_told(rng):
    clean, x = latents(rng, 1.2)
    found = radius(x, 1.1 * x, clean, SIGNAL, SIGMA, TIMES)
    assert [one.verdict for one in found.findings] == ["opposite", "opposite"]
    same = radius(x, x, clean, SIGNAL, SIGMA, TIMES)
    assert same.findings[1].verdict == "not shown"


def test_bad_input_is_refused(rng):
    clean, x = latents(rng)
    with pytest.raises(ValueError, match="24 samples"):
        radius(x, x, clean[:3], SIGNAL, SIGMA, TIMES)
    with pytest.raises(ValueError, match="signal and sigma"):
        radius(x, x, clean, SIGNAL[:2], SIGMA, TIMES)
    with pytest.raises(ValueError, match="finite"):
        radius(x * torch.inf, x, clean, SIGNAL, SIGMA, TIMES)
