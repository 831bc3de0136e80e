"""The noise of stochastic steps: of a seed and a timestep, whatever the batch and the order."""

import pytest
import torch
from diffusers import DDIMScheduler

from pullback.sampling import FreshNoise, even_grid, walk
from tests.sampling.schedules import Schedule

LIKE = torch.zeros(3, 2, 4, 5)


def test_noise_depends_on_seed_and_timestep_alone():
    many = FreshNoise([5, 6, 7]).at(400, LIKE)
    assert many.shape == LIKE.shape
    assert torch.equal(many[1:2], FreshNoise([6]).at(400, LIKE[:1]))
    assert torch.equal(many[[2, 0, 1]], FreshNoise([7, 5, 6]).at(400, LIKE))
    source = FreshNoise([5, 6, 7])
    source.at(399, LIKE)
    assert torch.equal(source.at(400, LIKE), many)  # whatever was drawn before
    assert torch.equal(source.at(400, LIKE), many)
    assert torch.equal(source.at(400.0, LIKE), many)  # the same time


def test_every_seed_and_timestep_has_noise_of_its_own():
    """Published timesteps among them, whose fractions may have the same whole part."""
    times = [-1, 0, 1, 2, 398, 399, 400, 400.4, 400.404, 401, 999, 1000]
    draws = [FreshNoise([seed]).at(t, LIKE[:1]) for seed in range(4) for t in times]
    draws = torch.stack(draws).flatten(1).double()
    alike = torch.corrcoef(draws).fill_diagonal_(0)
    assert float(alike.abs().max()) < 0.75  # of 40 numbers
    # Neither by the sum of seed and timestep.
    first, second = (FreshNoise([s]).at(t, LIKE[:1]) for s, t in ((3, 500), (4, 499)))
    assert not torch.allclose(first, second, atol=0.1)


def test_noise_is_standard_normal():
    like = torch.zeros(8, 1, 64, 64)
    draws = torch.stack([FreshNoise(range(8)).at(t, like) for t in range(0, 1000, 100)]).flatten()
    assert float(draws.mean()) == pytest.approx(0, abs=5 * len(draws) ** -0.5)
    assert float(draws.std()) == pytest.approx(1, abs=5 * len(draws) ** -0.5)
    assert float((draws.abs() < 1).double().mean()) == pytest.approx(0.6827, abs=5e-3)
    assert float((draws > 2).double().mean()) == pytest.approx(0.02275, abs=2e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_noise_is_that_of_float32_in_any_dtype(dtype):
    noise = FreshNoise([1, 2, 3])
    assert torch.equal(noise.at(7, LIKE.to(dtype)), noise.at(7, LIKE).to(dtype))
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(noise.at(7, LIKE), FreshNoise([1, 2, 3]).at(7, LIKE))
        assert noise.at(7, LIKE).dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("seed", [-1, 2**32, 1.5, True, "1", None])
def test_what_is_no_seed_is_refused(seed):
    with pytest.raises(ValueError, match="seed"):
        FreshNoise([seed])


def test_edits_of_one_sample_get_the_same_noise(rng):
    """Where the network knows the noise, what differs at the start differs alike at the end."""
    schedule = Schedule(DDIMScheduler(clip_sample=False))
    x = torch.randn(1, 2, 4, 5, generator=rng)
    direction = torch.randn(1, 2, 4, 5, generator=rng)
    edits = torch.cat([x + scale * direction for scale in (0.0, 1.0, 2.0)])
    found = walk(
        schedule, lambda x, t: torch.zeros_like(x), edits, even_grid(schedule, 900, steps=10),
        eta=1.0, noise=FreshNoise([4, 4, 4]),
    )  # fmt: skip
    torch.testing.assert_close(found[2] - found[1], found[1] - found[0], rtol=1e-3, atol=1e-2)
    assert (found[1] - found[0]).abs().max() > 1
    other = walk(
        schedule, lambda x, t: torch.zeros_like(x), edits[:1], even_grid(schedule, 900, steps=10),
        eta=1.0, noise=FreshNoise([5]),
    )  # fmt: skip
    assert (other - found[:1]).abs().max() > 0.1
