"""Steps and walks, each against the run of diffusers' own scheduler with the same noise."""

from itertools import pairwise

import diffusers
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerAncestralDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
)

from pullback import models
from pullback.sampling import even_grid, level, stride, walk
from pullback.sampling import step as one_step
from tests.models.schedulers import as_network_sees, counted
from tests.sampling.schedules import Given, Schedule

STEPS = 10
SPACINGS = ["leading", "trailing", "linspace"]
KINDS = ["epsilon", "sample", "v_prediction"]
# Of bfloat16: theirs rounds the square roots and products in another order.
TOLERANCE = {torch.float64: 1e-6, torch.float32: 2e-5, torch.bfloat16: 6e-2}


def network(rng, dtype=torch.float32, channels=1):
    """A prediction that depends on the latents and the timestep, and is not small."""
    weight = torch.randn(4, 4, generator=rng).to(dtype) / 2

    def predict(x, t):
        first = 2 * torch.tanh(x @ weight) * (1 + float(t) / 1000)
        return torch.cat([first * 0.7**i for i in range(channels)], 1)

    return predict


def noise(rng, dtype=torch.float32, count=2):
    return torch.randn(count, 1, 4, 4, generator=rng).to(dtype)


def relative(found, expected):
    difference = (found.double() - expected.double()).abs().max()
    return float(difference / expected.double().abs().max())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("clips", [True, False])
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_ddim_steps_are_those_of_diffusers(rng, eta, kind, spacing, clips, dtype):
    """Every step of its own run; `eta` = 1 is DDPM, whose noise is that of the clipped data."""
    for to_one in (True, False):
        scheduler = DDIMScheduler(
            prediction_type=kind, timestep_spacing=spacing, clip_sample=clips,
            set_alpha_to_one=to_one,
        )  # fmt: skip
        scheduler.set_timesteps(STEPS)
        schedule, predict, x = Schedule(scheduler, kind), network(rng, dtype), noise(rng, dtype)
        for t in scheduler.timesteps.tolist():
            prediction, z = predict(x, t), noise(rng, dtype)
            expected = scheduler.step(
                prediction, t, x, eta=eta, variance_noise=z, use_clipped_model_output=eta == 1
            ).prev_sample
            to = max(t - 1000 // STEPS, -1)
            found = one_step(schedule, prediction, x, t, to, eta=eta, noise=z)
            assert found.dtype == dtype
            assert relative(found, expected) <= TOLERANCE[dtype]
            x = expected


@pytest.mark.parametrize("to_one", [True, False])
@pytest.mark.parametrize("clips", [True, False])
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_ddim_walks_are_those_of_diffusers(rng, eta, spacing, clips, to_one):
    """Down to where its own steps end, which is not the data where set_alpha_to_one is false."""
    scheduler = DDIMScheduler(timestep_spacing=spacing, clip_sample=clips, set_alpha_to_one=to_one)
    scheduler.set_timesteps(STEPS)
    schedule, predict, x, z = Schedule(scheduler), network(rng), noise(rng), Given(rng)
    times = scheduler.timesteps.tolist()
    grid = even_grid(schedule, times[0], steps=STEPS)
    assert grid == [*times, -1]
    found = walk(schedule, predict, x, grid, eta=eta, noise=z)
    for t, to in pairwise(grid):
        x = scheduler.step(
            predict(x, t), t, x, eta=eta, variance_noise=z.at(to, x),
            use_clipped_model_output=eta == 1,
        ).prev_sample  # fmt: skip
    assert relative(found, x) <= 1e-4


@pytest.mark.parametrize("kind", ["sample", "v_prediction"])
def test_a_schedule_that_ends_in_pure_noise_is_walked_from_there(rng, kind):
    settings = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    scheduler = DDIMScheduler(prediction_type=kind, clip_sample=False, **settings)
    scheduler.set_timesteps(STEPS)
    schedule, predict, x = Schedule(scheduler, kind), network(rng), noise(rng)
    assert level(schedule, 999) == (0, 1)
    found = walk(schedule, predict, x, even_grid(schedule, 999, steps=STEPS))
    for t in scheduler.timesteps:
        x = scheduler.step(predict(x, t), t, x).prev_sample
    assert bool(torch.isfinite(found).all())
    assert relative(found, x) <= 1e-5


VARIANCES = ["fixed_small", "fixed_small_log", "fixed_large", "learned", "learned_range"]


@pytest.mark.parametrize("clips", [True, False])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("variance", VARIANCES)
def test_ddpm_walks_are_those_of_diffusers(rng, monkeypatch, variance, kind, clips):
    scheduler = DDPMScheduler(variance_type=variance, prediction_type=kind, clip_sample=clips)
    scheduler.set_timesteps(STEPS)
    learned = network(rng, channels=2 if variance.startswith("learned") else 1)

    def predict(x, t):  # a learned variance is none below 0
        found = learned(x, t)
        found[:, 1:] = found[:, 1:].abs() if variance == "learned" else found[:, 1:].tanh()
        return found

    schedule, x, z = Schedule(scheduler, kind), noise(rng), Given(rng)
    grid = even_grid(schedule, int(scheduler.timesteps[0]), steps=STEPS)
    found = walk(schedule, predict, x, grid, solver="ddpm", noise=z)
    for t, to in pairwise(grid):
        monkeypatch.setattr(
            diffusers.schedulers.scheduling_ddpm, "randn_tensor",
            lambda *_, to=to, x=x, **__: z.at(to, x),
        )  # fmt: skip
        x = scheduler.step(predict(x, t), t, x).prev_sample
    assert relative(found, x) <= 1e-4
    assert set(z.drawn) == set(grid[1:-1])


def test_a_random_walk_of_one_share_is_that_of_the_ancestral_sampler(rng, monkeypatch):
    """Euler's ancestral steps are DDPM's with the posterior's variance, in other units."""
    scheduler = EulerAncestralDiscreteScheduler(timestep_spacing="leading")
    scheduler.set_timesteps(STEPS)
    schedule, predict, z = Schedule(scheduler), network(rng), Given(rng)
    times = [round(t) for t in scheduler.timesteps.tolist()]
    grid = even_grid(schedule, times[0], steps=STEPS)
    assert grid == [*times, -1]
    latents = noise(rng) * scheduler.init_noise_sigma
    x = as_network_sees(scheduler, latents, scheduler.timesteps[0])
    scheduler._step_index = None
    found = walk(schedule, predict, x, grid, eta=1, noise=z)
    for t, to in pairwise(grid):
        monkeypatch.setattr(
            diffusers.schedulers.scheduling_euler_ancestral_discrete, "randn_tensor",
            lambda *_, to=to, x=x, **__: z.at(to, x),
        )  # fmt: skip
        seen = scheduler.scale_model_input(latents, float(t))
        latents = scheduler.step(predict(seen, t), float(t), latents).prev_sample
    assert relative(found, latents) <= 1e-4


def test_an_unknown_kind_of_variance_is_refused(rng):
    for variance, channels in (("of_the_moon", 1), ("learned", 1), ("learned_range", 3)):
        schedule = Schedule(DDPMScheduler(variance_type=variance))
        predict, x = network(rng, channels=channels), noise(rng)
        with pytest.raises(ValueError, match=f'{variance}.*and {channels} channels. Use solver="d'):
            walk(schedule, predict, x, [500, 400, -1], solver="ddpm", noise=Given(rng))
        assert walk(schedule, predict, x, [500, 400, -1], eta=1, noise=Given(rng)).shape == x.shape


def multistep(kind, spacing="linspace", **settings):
    return DPMSolverMultistepScheduler(prediction_type=kind, timestep_spacing=spacing, **settings)


@pytest.mark.parametrize("steps", [5, 10, 20])
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_multistep_walks_are_those_of_diffusers(rng, kind, spacing, steps):
    """To the data, and to every one of its timesteps on the way, as its own run comes by them."""
    scheduler = multistep(kind, spacing)
    scheduler.set_timesteps(steps)
    schedule, predict, start = Schedule(scheduler, kind), network(rng), noise(rng)
    times = scheduler.timesteps.tolist()
    states, x = {times[0]: start}, start
    for t, to in pairwise([*times, -1]):
        x = scheduler.step(predict(x, t), t, x).prev_sample
        states[to] = x
    found = {}
    walk(schedule, predict, start, [*times, -1], solver="dpm++", visit=found.__setitem__)
    assert list(found) == [*times, -1]
    for t, expected in states.items():
        assert relative(found[t], expected) <= 1e-4
    for stop in (times[1], times[steps // 2], times[-1]):
        grid = times[: times.index(stop) + 1]
        found = walk(schedule, predict, start, grid, solver="dpm++")
        assert relative(found, states[stop]) <= 1e-4


def test_multistep_walks_start_from_pure_noise_too(rng):
    settings = {"rescale_betas_zero_snr": True}
    scheduler = multistep("v_prediction", "trailing", **settings)
    scheduler.set_timesteps(STEPS)
    ours = DDIMScheduler(prediction_type="v_prediction", **settings)
    predict, x = network(rng), noise(rng)
    grid = [*scheduler.timesteps.tolist(), -1]
    found = walk(Schedule(ours, "v_prediction"), predict, x, grid, solver="dpm++")
    for t in scheduler.timesteps:
        x = scheduler.step(predict(x, t), t, x).prev_sample
    assert bool(torch.isfinite(found).all())
    assert relative(found, x) <= 1e-4


@pytest.mark.parametrize("clip", [True, False])
def test_multistep_walks_threshold_where_the_scheduler_does(rng, clip):
    given = {"thresholding": True, "sample_max_value": 1.5}
    scheduler = multistep("epsilon", **(given if clip else {}))
    scheduler.set_timesteps(STEPS)
    predict, x = network(rng), noise(rng)
    grid = [*scheduler.timesteps.tolist(), -1]
    schedule = Schedule(DDIMScheduler(**given))
    found = walk(schedule, predict, x, grid, solver="dpm++", clip=clip)
    for t in scheduler.timesteps:
        x = scheduler.step(predict(x, t), t, x).prev_sample
    assert relative(found, x) <= 1e-4


@pytest.mark.parametrize("solver", ["ddpm", "dpm++"])
def test_flows_and_continuous_schedules_have_one_solver(rng, solver):
    for scheduler in (FlowMatchEulerDiscreteScheduler(), EDMEulerScheduler()):
        schedule = models.Schedule(scheduler)
        with pytest.raises(ValueError, match=f"'{solver}|{solver}.*{type(scheduler).__name__}"):
            walk(schedule, network(rng), noise(rng), [500, 400], solver=solver, noise=Given(rng))
    with pytest.raises(ValueError, match="solver of ddim, ddpm, dpm\\+\\+, got 'heun'"):
        walk(Schedule(DDIMScheduler()), network(rng), noise(rng), [500, 400], solver="heun")


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_walks_are_those_of_diffusers(rng, shift):
    """On its own timesteps, fractions among them."""
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(STEPS)
    predict, x = network(rng), noise(rng)
    grid = [*scheduler.timesteps.tolist(), -1]
    found = walk(Schedule(scheduler, "flow"), predict, x, grid)
    for t in scheduler.timesteps:
        x = scheduler.step(predict(x, t), t, x).prev_sample
    assert relative(found, x) <= 1e-5


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"sigma_schedule": "exponential", "sigma_max": 120.0},
        {"prediction_type": "v_prediction", "sigma_data": 1.0},
    ],
)
def test_walks_of_noise_levels_are_those_of_diffusers(rng, settings):
    """x_t is what the network is given, of unit variance; at the data both are the same."""
    scheduler = EDMEulerScheduler(**settings)
    scheduler.set_timesteps(STEPS)
    schedule, predict = models.Schedule(scheduler), network(rng)
    grid = [*(counted(schedule, t) for t in scheduler.timesteps), -1]
    latents = noise(rng) * scheduler.init_noise_sigma
    x = as_network_sees(scheduler, latents, scheduler.timesteps[0])
    scheduler._step_index = None
    found = walk(schedule, lambda x, t: predict(x, schedule.told(torch.tensor(t))), x, grid)
    for t in scheduler.timesteps:
        seen = scheduler.scale_model_input(latents, t)
        latents = scheduler.step(predict(seen, t), t, latents).prev_sample
    assert relative(found, latents) <= 1e-4


def test_noise_is_needed_and_eta_is_a_share(rng):
    schedule, predict, x = Schedule(DDIMScheduler()), network(rng), noise(rng)
    grid = even_grid(schedule, 900, steps=STEPS)
    for chosen in ({"eta": 0.5}, {"solver": "ddpm"}, {"eta": lambda t: float(t < 500)}):
        with pytest.raises(ValueError, match="Expected noise=, with a seed for each sample"):
            walk(schedule, predict, x, grid, **chosen)
    for eta in (-0.1, 1.5, float("nan"), lambda t: 2.0):
        with pytest.raises(ValueError, match=r"eta from 0 to 1, got .* at t = 900"):
            walk(schedule, predict, x, grid, eta=eta, noise=Given(rng))


def test_eta_as_a_function_is_random_from_there_on_alone(rng):
    """Until t = 500 the deterministic walk; from there on that with eta = 1."""
    schedule, predict, x, z = Schedule(DDIMScheduler()), network(rng), noise(rng), Given(rng)
    grid = even_grid(schedule, 900, steps=STEPS)
    found = walk(schedule, predict, x, grid, eta=lambda t: float(t <= 500), noise=z)
    assert set(z.drawn) == {400, 300, 200, 100, 0}
    half = walk(schedule, predict, x, even_grid(schedule, 900, 500, steps=STEPS))
    rest = even_grid(schedule, 500, steps=STEPS)
    assert torch.equal(found, walk(schedule, predict, half, rest, eta=1.0, noise=z))
    assert stride(schedule, STEPS) == 100


@pytest.mark.parametrize("solver", ["ddpm", "dpm++"])
def test_what_only_ddim_steps_take_is_refused_elsewhere(rng, solver):
    """It would be without effect, and nobody would know."""
    schedule, predict, x = Schedule(DDIMScheduler()), network(rng), noise(rng)
    for eta in (0.5, lambda t: 0.0):
        with pytest.raises(ValueError, match=f"no eta, and no boost of an edit, .*{solver[:3]}"):
            walk(schedule, predict, x, [500, 400], solver=solver, eta=eta, noise=Given(rng))
    with pytest.raises(ValueError, match="no residuals of an inversion"):
        walk(schedule, predict, x, [500, 400], solver=solver, residuals={400: x}, noise=Given(rng))


def test_two_predictions_are_refused_by_dpm_solver(rng):
    schedule, predict, x = Schedule(DDIMScheduler()), network(rng), noise(rng)
    with pytest.raises(ValueError, match="take one prediction"):
        walk(schedule, lambda x, t: (predict(x, t),) * 2, x, [500, 400], solver="dpm++")
