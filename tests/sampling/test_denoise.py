"""Latents on the way from noise to images, and DDIM between them."""

import diffusers
import pytest
import torch

from pullback import denoise
from pullback.sampling import stride


def test_latents_do_not_depend_on_the_count_and_follow_the_schedule(digits):
    many, few = digits.sample_latents(4, 700, seed=3), digits.sample_latents(2, 700, seed=3)
    assert torch.allclose(many[:2], few, atol=1e-5)
    assert torch.allclose(many[1:3], digits.sample_latents(2, 700, seed=4), atol=1e-5)
    assert torch.allclose(many[[2, 0]], digits.sample_latents(2, 700, seed=(5, 3)), atol=1e-5)
    assert not torch.allclose(many[0], many[1], atol=0.1)
    noise = digits.sample_latents(64, 999)
    assert noise.std() == pytest.approx(1.0, abs=0.03)


def test_stopping_on_the_way_is_the_same_trajectory(digits):
    x = digits.sample_latents(2, 900, seed=3)
    assert torch.allclose(
        denoise(digits, x, 900, 700), digits.sample_latents(2, 700, seed=3), atol=1e-4
    )
    whole, halves = denoise(digits, x, 900), denoise(digits, denoise(digits, x, 900, 500), 500)
    assert torch.allclose(whole, halves, atol=1e-4)


def test_ddim_is_the_sampler_of_diffusers(digits):
    scheduler = diffusers.DDIMScheduler.from_config(digits.schedule.scheduler.config)
    scheduler.set_timesteps(50)
    x = digits.sample_latents(2, int(scheduler.timesteps[0]), seed=5)
    expected, cond = x, digits.conditions.of(None, 2)
    with torch.no_grad():
        for t in scheduler.timesteps:
            output = digits.network(expected, t, **cond).sample
            expected = scheduler.step(output, t, expected).prev_sample
    assert torch.allclose(denoise(digits, x, int(scheduler.timesteps[0])), expected, atol=1e-5)


def test_off_the_stride_is_refused(digits):
    assert stride(digits.schedule, 50) == 20
    x = digits.sample_latents(1, 700)
    for stop in (690, 800, -2):
        with pytest.raises(ValueError, match="strides of 20 below start = 700"):
            denoise(digits, x, 700, stop)
    with pytest.raises(ValueError, match="steps between 1 and 1000, got 0"):
        denoise(digits, x, 700, steps=0)
    with pytest.raises(ValueError, match="one seed per sample, 3, got 2"):
        digits.sample_latents(3, 700, seed=(1, 2))
    with pytest.raises(ValueError, match="positive count"):
        digits.sample_latents(0, 700)
