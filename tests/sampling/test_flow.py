"""Sampling of flow models, whose paths are known."""

import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler

from pullback import denoise, maps
from tests.models.callables import SHAPE, N, denoiser, model_of


@pytest.fixture
def weight(rng):
    return torch.randn(N, N, generator=rng, dtype=torch.float64) / 3


@pytest.fixture
def x(rng):
    return torch.randn(3, *SHAPE, generator=rng, dtype=torch.float64)


def flow_of(f):
    return model_of(f, FlowMatchEulerDiscreteScheduler())


def straight(center):
    """The velocity field of noise that flows to one point: x_t = (1 − σ) center + σ ε."""

    def f(x, t):
        return (x - center) * (1000 / t.to(x))[:, None, None, None]

    return f


@pytest.fixture
def center(rng):
    return torch.randn(SHAPE, generator=rng, dtype=torch.float64)


@pytest.mark.parametrize("steps", [1, 2, 10, 50, 300, 1000])
def test_straight_paths_are_followed_exactly_whatever_the_steps(center, x, steps):
    model = flow_of(straight(center))
    torch.testing.assert_close(
        denoise(model, x, 1000, steps=steps), center.expand(3, -1, -1, -1), rtol=0, atol=1e-10
    )
    down = 1000 // steps
    stop = 1000 - (700 // down) * down
    sigma = stop / 1000
    torch.testing.assert_close(
        denoise(model, x, 1000, stop, steps=steps), (1 - sigma) * center + sigma * x,
        rtol=1e-10, atol=1e-10,
    )  # fmt: skip


def test_a_start_off_the_stride_still_arrives_at_the_clean_image(center, x):
    model = flow_of(straight(center))
    y = 0.993 * x + 0.007 * center  # at t = 993
    torch.testing.assert_close(
        denoise(model, y, 993, steps=50), center.expand(3, -1, -1, -1), rtol=0, atol=1e-10
    )
    with pytest.raises(ValueError, match="whole number of strides of 20 below start"):
        denoise(model, y, 993, 0, steps=50)


def test_a_linear_field_is_eulers_method_step_by_step(x):
    # dx/dσ = a x: one step of size d multiplies by 1 − a d.
    model = flow_of(lambda x, t: 0.7 * x)
    for steps in (1, 4, 50):
        truth = x * (1 - 0.7 / steps) ** steps
        torch.testing.assert_close(denoise(model, x, 1000, steps=steps), truth, rtol=1e-10, atol=0)
    # 3 steps of 333 leave one of 1 / 1000.
    truth = x * (1 - 0.7 * 0.333) ** 3 * (1 - 0.7 * 0.001)
    torch.testing.assert_close(denoise(model, x, 1000, steps=3), truth, rtol=1e-10, atol=0)


def test_what_holds_signal_and_noise_in_a_flow_model(weight):
    model = flow_of(denoiser(weight))
    signal, sigma = model.schedule.signal_and_noise(torch.tensor([0, 250, 1000]))
    assert signal.tolist() == [1.0, 0.75, 0.0]
    assert sigma.tolist() == [0.0, 0.25, 1.0]
    assert (model.schedule.prediction_type, model.schedule.max_timestep) == ("flow", 1000)
    assert model_of(denoiser(weight)).schedule.max_timestep == 999
    with pytest.raises(ValueError, match="between 0 and 999, got 1000"):
        model_of(denoiser(weight)).schedule.timesteps(1000, 1)


def test_what_holds_signal_and_noise_in_a_diffusion_model(weight):
    t = torch.tensor([0, 400, 999])
    signal, sigma = model_of(denoiser(weight)).schedule.signal_and_noise(t)
    torch.testing.assert_close(signal.square(), DDPMScheduler().alphas_cumprod[t])
    torch.testing.assert_close(signal.square() + sigma.square(), torch.ones(3))


@pytest.mark.parametrize("t", [1000, 980, 500, 20, 0])
def test_sampled_latents_of_a_flow_model_lie_on_its_paths(center, t):
    model = flow_of(straight(center))
    noise = model.sample_latents(3, 1000, seed=5)
    found = model.sample_latents(3, t, seed=5)
    sigma = t / 1000
    torch.testing.assert_close(found, (1 - sigma) * center + sigma * noise, rtol=0, atol=1e-10)
    # Every sample has a seed of its own.
    torch.testing.assert_close(model.sample_latents(1, t, seed=[7]), found[2:], rtol=0, atol=1e-12)


def test_pure_noise_of_a_flow_model_has_maps(weight, x):
    model = flow_of(denoiser(weight))
    raw = denoiser(weight)(x, torch.full((3,), 1000))
    torch.testing.assert_close(maps.output(model).at(x, 1000).value(), x)
    torch.testing.assert_close(maps.output(model, "denoised").at(x, 1000).value(), x - raw)
    torch.testing.assert_close(maps.output(model, "score").at(x, 1000).value(), -x)
