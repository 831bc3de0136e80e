"""Schedulers of diffusers: taken as they themselves add noise and step, or refused by name."""

import re

import pytest
import torch
from diffusers import (
    CMStochasticIterativeScheduler,
    DDIMScheduler,
    DDPMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    LCMScheduler,
    RePaintScheduler,
    ScoreSdeVeScheduler,
    UniPCMultistepScheduler,
)

from pullback import LatentModel, ddim
from pullback.models import Schedule
from tests.models import schedulers
from tests.models.callables import SHAPE, model_of
from tests.models.families import flux
from tests.models.models_table import PAGE

NAMES = schedulers.names()


@pytest.fixture(scope="module")
def page():
    return PAGE.read_text("utf-8").partition(schedulers.BEGIN)[2]


@pytest.mark.parametrize("name", NAMES)
def test_a_scheduler_agrees_with_its_own_noise_and_steps_or_is_refused(name, page):
    """With every setting by which it clips; the table in the documentation says which it is."""
    lines = re.findall(rf"^\| `{name}` \|", page, re.MULTILINE)
    assert bool(lines) == schedulers.is_known(name), "python -m tests.models.schedulers"
    if not lines:
        assert f"`{name}`" in page.partition("Refused by name")[2]
        return
    assert schedulers.noise_error(name) <= 1e-6
    if name not in schedulers.NOT_DETERMINISTIC_FIRST:
        for settings in schedulers.clipping_settings(name):
            assert schedulers.step_error(name, **settings) <= 5e-6, settings


def test_no_scheduler_of_diffusers_is_forgotten():
    assert len(NAMES) > 35
    assert set(schedulers.NOT_DETERMINISTIC_FIRST) <= set(NAMES)


@pytest.mark.parametrize(
    "kind", [CMStochasticIterativeScheduler, RePaintScheduler, ScoreSdeVeScheduler]
)
def test_a_scheduler_in_other_units_is_refused_with_what_to_pass(kind):
    with pytest.raises(ValueError, match=rf"{kind.__name__} is not known.*such as DDPMScheduler"):
        model_of(lambda x, t: x, kind())


@pytest.mark.parametrize(
    ("scheduler", "what"),
    [
        (EulerDiscreteScheduler(timestep_type="continuous"), "timestep_type = 'continuous'"),
        (FlowMatchEulerDiscreteScheduler(invert_sigmas=True), "invert_sigmas = True"),
        (UniPCMultistepScheduler(use_flow_sigmas=True), "use_flow_sigmas = True"),
        (UniPCMultistepScheduler(prediction_type="flow_prediction"), "use_flow_sigmas = False"),
    ],
)
def test_settings_that_tell_the_network_another_time_are_refused(scheduler, what):
    with pytest.raises(ValueError, match=what):
        Schedule(scheduler)


def test_a_class_of_ones_own_is_taken_as_the_one_it_is_derived_from():
    kind = type("Mine", (DDPMScheduler,), {})
    expected = Schedule(DDPMScheduler()).alphas_cumprod
    assert torch.equal(Schedule(kind()).alphas_cumprod, expected)


def test_betas_of_another_kind_are_the_ones_stepped_with(rng):
    """LCM's default betas are not DDIM's: ᾱ differs by a third."""
    x = torch.randn(2, *SHAPE, generator=rng, dtype=torch.float64)
    network = lambda x, t: torch.tanh(x)  # noqa: E731
    found = ddim(model_of(network, LCMScheduler()), x, 600, 400, steps=10)
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False
    )
    assert torch.equal(scheduler.alphas_cumprod, LCMScheduler().alphas_cumprod)
    scheduler.set_timesteps(10)
    expected = x
    for t in (600, 500):
        expected = scheduler.step(network(expected, t), t, expected).prev_sample
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("to_one", [True, False])
def test_the_last_step_arrives_where_the_scheduler_says(to_one, rng):
    """At ᾱ = 1, or at the least noise of training; with another number of timesteps, too."""
    scheduler = DDIMScheduler(500, clip_sample=False, set_alpha_to_one=to_one)
    scheduler.set_timesteps(5)
    x = torch.randn(2, *SHAPE, generator=rng, dtype=torch.float64)
    network = lambda x, t: torch.tanh(x)  # noqa: E731
    found = ddim(model_of(network, scheduler), x, 400, steps=5)
    expected = x
    for t in scheduler.timesteps:
        expected = scheduler.step(network(expected, t), t, expected).prev_sample
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_a_scheduler_that_does_not_say_where_arrives_at_the_image(rng):
    """As the last step of Euler's scheduler does."""
    scheduler = EulerDiscreteScheduler()
    scheduler.set_timesteps(4)
    t = scheduler.timesteps[-1]
    assert float(t) == 0
    x = torch.randn(2, *SHAPE, generator=rng, dtype=torch.float64)
    scheduler.scale_model_input(x, t)
    expected = scheduler.step(torch.tanh(x), t, x / scheduler.scale_model_input(1.0, t))
    found = ddim(model_of(lambda x, t: torch.tanh(x), scheduler), x, 0, steps=4)
    torch.testing.assert_close(found, expected.prev_sample, rtol=1e-5, atol=1e-5)


def test_a_network_of_a_flow_is_refused_with_a_scheduler_of_none():
    with pytest.raises(ValueError, match="predicts a flow, and DDPMScheduler is set up for"):
        LatentModel(flux().eval(), DDPMScheduler(), latent_shape=(4, 8, 8))
