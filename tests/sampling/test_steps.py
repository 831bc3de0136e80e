"""Steps between timesteps, for a schedule and a prediction function that belong to no model."""

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, FlowMatchEulerDiscreteScheduler

from pullback.sampling import even_grid, gaussian_noise, stride, walk
from tests.sampling.schedules import Schedule


def denoise(schedule, predict, x, start, stop=-1, *, steps=50):
    return walk(schedule, predict, x, even_grid(schedule, start, stop, steps=steps))


DIFFUSION = Schedule(DDPMScheduler(clip_sample=False))
FLOW = Schedule(FlowMatchEulerDiscreteScheduler(), "flow")


@pytest.mark.parametrize(("steps", "down"), [(1, 1000), (3, 333), (50, 20), (1000, 1)])
def test_the_stride_is_the_whole_part(steps, down):
    assert stride(DIFFUSION, steps) == down


@pytest.mark.parametrize("steps", [0, -3, 1001])
def test_the_schedule_has_so_many_steps_at_most(steps):
    with pytest.raises(ValueError, match=f"between 1 and 1000, got {steps}"):
        stride(DIFFUSION, steps)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("steps", [7, 50])
def test_a_true_prediction_leads_to_the_clean_latents(rng, kind, steps):
    """Where the network knows x₀ and ε, DDIM stays on x_t = √ᾱ x₀ + √(1 − ᾱ) ε, at every t."""
    config = {"prediction_type": kind, "clip_sample": False, "set_alpha_to_one": True}
    scheduler = DDIMScheduler(**config)
    clean = torch.randn(2, 3, 4, 5, generator=rng, dtype=torch.float64)
    noise = torch.randn(2, 3, 4, 5, generator=rng, dtype=torch.float64)

    def at(t):
        share = scheduler.alphas_cumprod[t].double()
        return share.sqrt() * clean + (1 - share).sqrt() * noise

    def predict(x, t):
        share = scheduler.alphas_cumprod[t].double()
        v = share.sqrt() * noise - (1 - share).sqrt() * clean
        return {"epsilon": noise, "sample": clean, "v_prediction": v}[kind]

    schedule = Schedule(scheduler, kind)
    down = stride(schedule, steps)
    start = 5 * down
    half = denoise(schedule, predict, at(start), start, 2 * down, steps=steps)
    torch.testing.assert_close(half, at(2 * down), rtol=1e-5, atol=1e-5)
    end = denoise(schedule, predict, half, 2 * down, steps=steps)
    torch.testing.assert_close(end, clean, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("stop", [-1, 0, 400])
def test_a_straight_flow_is_followed_exactly(rng, stop):
    clean, noise = torch.randn(2, 1, 3, 4, 5, generator=rng, dtype=torch.float64)
    asked = []

    def predict(x, t):
        asked.append(t)
        return noise - clean

    share = 700 / 1000
    start = share * noise + (1 - share) * clean
    found = denoise(FLOW, predict, start, 700, stop, steps=10)
    share = max(stop, 0) / 1000
    torch.testing.assert_close(found, share * noise + (1 - share) * clean, rtol=0, atol=1e-12)
    assert asked == list(range(700, max(stop, 0), -100))


def test_steps_are_those_of_diffusers(rng):
    """The same loop written with the scheduler alone, as its pipelines do."""
    scheduler = DDIMScheduler()
    weight = torch.randn(4, 4, generator=rng) / 2
    predict = lambda x, t: torch.tanh(x @ weight) * (1 + t / 1000)  # noqa: E731
    x = torch.randn(2, 1, 4, 4, generator=rng)
    expected = x
    scheduler.set_timesteps(20)
    for t in scheduler.timesteps:
        expected = scheduler.step(predict(expected, int(t)), t, expected).prev_sample
    found = denoise(Schedule(DDIMScheduler()), predict, x, 950, steps=20)
    assert torch.equal(found, expected)


def test_nothing_is_recorded_for_gradients():
    weight = torch.ones(1, requires_grad=True)
    found = denoise(FLOW, lambda x, t: weight * x, torch.ones(1, 1, 2, 2), 100, steps=10)
    assert not found.requires_grad


@pytest.mark.parametrize("stop", [701, 650, -2, 1000])
def test_a_stop_that_no_stride_reaches_is_refused(stop):
    with pytest.raises(ValueError, match=f"strides of 20 below start = 700, got {stop}"):
        denoise(DIFFUSION, lambda x, t: x, torch.ones(1, 1, 2, 2), 700, stop, steps=50)


def test_every_sample_has_noise_of_its_own():
    noise = gaussian_noise((2, 3, 4), [5, 0, 7])
    assert noise.shape == (3, 2, 3, 4)
    assert noise.dtype == torch.float32
    assert torch.equal(noise[1:2], gaussian_noise((2, 3, 4), [0]))
    assert not torch.equal(noise[0], noise[1])
    many = gaussian_noise((100, 100), range(8))
    assert float(many.mean()) == pytest.approx(0, abs=0.02)
    assert float(many.std()) == pytest.approx(1, abs=0.02)


def test_noise_is_of_one_dtype_and_device_whatever_torch_has_by_default():
    expected = gaussian_noise((2, 3), [5, 7])
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            found = gaussian_noise((2, 3), [5, 7])
    finally:
        torch.set_default_dtype(torch.float32)
    assert (found.dtype, found.device) == (torch.float32, torch.device("cpu"))
    assert torch.equal(found, expected)


@pytest.mark.parametrize("steps", [1, 3, 7, 15, 64, 300])
@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
def test_steps_that_do_not_divide_the_schedule_are_those_of_diffusers(rng, steps, kind):
    """A run of diffusers' own scheduler, its own timesteps from the first to the last.

    1000 / 7 is nearer to 143, and DDIM goes down by 142; its last step leads from t = 0 to the
    clean image.
    """
    config = {"prediction_type": kind, "clip_sample": False}
    scheduler = DDIMScheduler(**config)
    scheduler.set_timesteps(steps)
    weight = torch.randn(4, 4, generator=rng) / 3
    asked = []

    def predict(x, t):
        asked.append(int(t))
        return torch.tanh(x @ weight) * (1 + t / 1000)

    x = torch.randn(2, 1, 4, 4, generator=rng)
    expected = x
    for t in scheduler.timesteps:
        expected = scheduler.step(predict(expected, int(t)), t, expected).prev_sample
    theirs, start = asked[:], int(scheduler.timesteps[0])
    asked.clear()
    found = denoise(Schedule(DDIMScheduler(**config), kind), predict, x, start, steps=steps)
    assert torch.equal(found, expected)
    assert asked == theirs
    if steps > 1:
        assert stride(Schedule(scheduler), steps) == theirs[0] - theirs[1]


@pytest.mark.parametrize("steps", [1, 4, 20, 50])
def test_steps_of_a_flow_are_those_of_diffusers(rng, steps):
    """FlowMatchEulerDiscreteScheduler on the σ that its pipelines hand it, down to 0."""
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(sigmas=[1 - step / steps for step in range(steps)])
    weight = torch.randn(4, 4, generator=rng) / 3
    asked = []

    def predict(x, t):
        asked.append(float(t))
        return torch.tanh(x @ weight) * (1 + float(t) / 1000)

    x = torch.randn(2, 1, 4, 4, generator=rng)
    expected = x
    for t in scheduler.timesteps:
        expected = scheduler.step(predict(expected, t), t, expected).prev_sample
    theirs = asked[:]
    asked.clear()
    found = denoise(FLOW, predict, x, 1000, steps=steps)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert asked == pytest.approx(theirs, abs=1e-3)
