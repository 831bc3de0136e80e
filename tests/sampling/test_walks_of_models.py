"""Walks of a model: guidance, grids, states on the way, progress, and options that do not exist."""

import inspect
from itertools import pairwise

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, FlowMatchEulerDiscreteScheduler

import pullback
from pullback import LatentModel, denoise, states
from pullback.models import Schedule
from pullback.sampling import FreshNoise, gaussian_noise, walk
from tests.models.callables import SHAPE, model_of
from tests.sampling.test_flow import flow_of


class Recorded:
    """A network that keeps what it is told, and takes a condition."""

    def __init__(self):
        self.times, self.words = [], []

    def __call__(self, x, t, word=None):
        self.times.append(t)
        self.words.append(word)
        bent = torch.tanh(0.8 * x + (t.to(x) / 1000)[:, None, None, None])
        return bent if word is None else bent + word.to(x)[:, None, None, None]


@pytest.fixture
def network():
    return Recorded()


@pytest.fixture
def model(network):
    return model_of(network, DDIMScheduler(clip_sample=False), null_cond={"word": torch.zeros(())})


@pytest.fixture
def x(rng):
    return torch.randn(3, *SHAPE, generator=rng, dtype=torch.float64)


def words(*values):
    return {"word": torch.tensor(values, dtype=torch.float64)}


@pytest.mark.parametrize("negative", [None, -0.3])
@pytest.mark.parametrize("guidance", [0, 0.5, 3.0, -1.0])
def test_guidance_is_its_formula_on_predictions(model, x, guidance, negative):
    cond = words(0.2, 0.4, 0.1)
    away = words(0.0 if negative is None else negative)
    given = {} if negative is None else {"negative": away}

    def guided(latents, t):
        of = [model.conditions.of(one, len(x)) for one in (away, cond)]
        null, wanted = (model.predict(latents, t, one) for one in of)
        return null + guidance * (wanted - null)

    found = denoise(model, x, 900, cond=cond, guidance=guidance, steps=10, **given)
    expected = walk(model.schedule, guided, x, [*range(900, -1, -100), -1])
    torch.testing.assert_close(found, expected)


def test_without_guidance_the_network_is_asked_once_a_step(model, network, x):
    denoise(model, x, 900, cond=words(0.2), steps=10)
    assert len(network.times) == 10
    denoise(model, x, 900, cond=words(0.2), steps=10, guidance=2.0)
    assert len(network.times) == 30
    alone = denoise(model, x, 900, cond=words(0.2), steps=10)
    torch.testing.assert_close(
        denoise(model, x, 900, cond=words(0.2), steps=10, guidance=1.0), alone
    )


def test_guidance_of_classes_is_that_of_the_network(digits):
    """The digits' null class, and another digit to guide away from, with diffusers' own loop."""
    x = digits.sample_latents(2, 900, seed=3)
    scheduler = DDIMScheduler.from_config(digits.schedule.scheduler.config)
    scheduler.set_timesteps(10)
    for away, given in ((10, {}), (7, {"negative": digits.encode(class_label=7)})):
        expected = x
        with torch.no_grad():
            for t in scheduler.timesteps:
                wanted, null = (
                    digits.network(expected, t, class_labels=torch.tensor([label] * 2)).sample
                    for label in (3, away)
                )
                expected = scheduler.step(null + 2.5 * (wanted - null), t, expected).prev_sample
        cond = digits.encode(class_label=3)
        found = denoise(digits, x, 900, steps=10, cond=cond, guidance=2.5, **given)
        assert (found - expected).abs().max() <= 1e-4


def test_what_guidance_is_not(model, x):
    with pytest.raises(ValueError, match="no effect at guidance = 1"):
        denoise(model, x, 900, cond=words(0.1), negative=words(0.2))
    for scale in (True, torch.tensor(2.0), "3", None, [2.0]):
        with pytest.raises(ValueError, match=f"guidance as a number, got {type(scale).__name__}"):
            denoise(model, x, 900, guidance=scale)


def test_guidance_keeps_the_learned_variance_of_the_condition(x):
    """It mixes predictions; the variance of the steps is that of the condition alone."""
    seen = []

    def two(x, t, word=None):
        word = word.to(x)[:, None, None, None]
        return torch.cat([torch.tanh(x) + word, torch.tanh(3 * x + word)], 1)

    scheduler = DDPMScheduler(variance_type="learned_range", clip_sample=False)
    model = model_of(two, scheduler, null_cond={"word": torch.zeros(())})

    def mixed(latents, t):
        times = torch.full((3,), t)
        null, wanted = (two(latents, times, word) for word in (torch.zeros(3), torch.ones(3)))
        seen.append(t)
        first = null[:, :2] + 2.0 * (wanted - null)[:, :2]
        return torch.cat([first, wanted[:, 2:]], 1)

    found = denoise(model, x, 900, steps=10, solver="ddpm", seed=5, guidance=2.0, cond=words(1.0))
    grid = [*range(900, -1, -100), -1]
    noise = FreshNoise([5, 6, 7])
    expected = walk(model.schedule, mixed, x, grid, solver="ddpm", noise=noise)
    torch.testing.assert_close(found, expected)
    assert len(seen) == 10


@pytest.mark.parametrize("options", [{}, {"eta": 0.7, "seed": 4}, {"solver": "ddpm", "seed": 4}])
def test_states_are_those_of_walks_that_stop_there(model, x, options):
    times = [500, -1, 700, 900, 0]
    found = states(model, x, 900, times, steps=10, **options)
    assert list(found) == [900, 700, 500, 0, -1]
    for t, latents in found.items():
        torch.testing.assert_close(latents, denoise(model, x, 900, t, steps=10, **options))
    assert torch.equal(found[900], x)


def test_states_of_a_multistep_walk_are_those_of_walks_that_stop_there(model, x):
    found = states(model, x, 900, [-1, 300, 500], steps=10, solver="dpm++")
    for t, latents in found.items():
        expected = denoise(model, x, 900, t, steps=10, solver="dpm++")
        torch.testing.assert_close(latents, expected, rtol=1e-5, atol=1e-5)


def test_a_walk_ends_at_the_last_of_its_states(model, network, x):
    states(model, x, 900, [700, 600], steps=10)
    assert [int(t[0]) for t in network.times] == [900, 800, 700]


def test_states_off_the_walk_are_refused(model, x):
    for times in ([650], [700, 899], [1000], [], [-2]):
        with pytest.raises(ValueError, match=r"timesteps of the walk, \[900.*, -1.*got \["):
            states(model, x, 900, times, steps=10)


def test_the_published_grid_tells_fractions_and_takes_the_noise_of_their_whole_part(
    model, network, x
):
    found = denoise(model, x, 999, 0, steps=20, grid="published")
    # The grid of the published code: N points from 0 to 1, times the last timestep.
    points = [float(p) * 999 for p in torch.linspace(0, 1, 20, dtype=torch.float64)][::-1]
    told = torch.stack([t[0] for t in network.times])
    assert told.is_floating_point()
    torch.testing.assert_close(told, torch.tensor(points[:-1], dtype=told.dtype))
    assert points[1] != int(points[1])
    # Each of its steps by hand, as diffusers' own steps are between whole timesteps.
    scheduler = DDIMScheduler(clip_sample=False)
    expected = x
    for t, to in pairwise(points):
        at, below = (scheduler.alphas_cumprod[int(one)].double() for one in (t, to))
        predicted = Recorded()(expected, torch.full((3,), t), torch.zeros(3))
        clean = (expected - (1 - at).sqrt() * predicted) / at.sqrt()
        expected = below.sqrt() * clean + (1 - below).sqrt() * predicted
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_the_published_grid_begins_at_or_below_the_start(model, network, x):
    denoise(model, x, 700, 0, steps=20, grid="published")
    assert float(network.times[0][0]) == pytest.approx(999 * 13 / 19)
    assert float(network.times[-1][0]) == pytest.approx(999 / 19)
    with pytest.raises(ValueError, match=r'for schedules with ᾱ. Expected "even"'):
        denoise(flow_of(lambda x, t: x), x, 700, grid="published")


def test_even_grids_tell_whole_timesteps(model, network, x):
    denoise(model, x, 690, 90, steps=10)
    assert [t.tolist() for t in network.times] == [[t] * 3 for t in range(690, 90, -100)]
    assert not network.times[0].is_floating_point()


def test_timesteps_of_ones_own(model, network, x):
    """Any that go down; the same as the walks between each two of them."""
    found = denoise(model, x, 900, grid=[900, 777, 400, 10, -1])
    assert [int(t[0]) for t in network.times] == [900, 777, 400, 10]
    scheduler, expected = DDIMScheduler(clip_sample=False), x
    own = model_of(Recorded(), scheduler, null_cond={"word": torch.zeros(())})
    for start, stop in ((900, 777), (777, 400), (400, 10), (10, -1)):
        expected = denoise(own, expected, start, stop, grid=[start, stop])
    assert torch.equal(found, expected)
    assert list(states(model, x, 900, [400, 777], grid=[900, 777, 400, -1])) == [777, 400]


@pytest.mark.parametrize(
    "grid",
    [
        [900, 400],  # ends above the data
        [800, 400, -1],  # starts elsewhere
        [900, 950, -1],
        [900, 400, 400, -1],
        [],
        [900],
    ],
)
def test_timesteps_that_do_not_go_down_from_start_to_stop_are_refused(model, x, grid):
    with pytest.raises(ValueError, match="go down from 900 to -1, got"):
        denoise(model, x, 900, grid=grid)


def test_other_grids_are_refused(model, x):
    with pytest.raises(ValueError, match='"even", "published" or timesteps, got \'odd\''):
        denoise(model, x, 900, grid="odd")
    for grid in ([900, 450.5, -1], [900, 1200, -1], [900, -2, -1], [900, "a", -1]):
        with pytest.raises(ValueError, match="whole training timestep between 0 and 999"):
            denoise(model, x, 900, grid=grid)


@pytest.mark.parametrize("solver", ["ddim", "dpm++"])
def test_progress_is_reported_after_each_step(model, x, solver):
    seen = []
    report = lambda done, total: seen.append((done, total))  # noqa: E731
    denoise(model, x, 900, 400, steps=10, solver=solver, progress=report)
    assert seen == [(done, 5) for done in range(1, 6)]
    seen.clear()
    states(model, x, 900, [800, 700], steps=10, solver=solver, progress=report)
    assert seen == [(1, 2), (2, 2)]


def test_seeds_are_of_samples(model, x):
    together = denoise(model, x, 900, steps=10, eta=1.0, seed=[5, 9, 5])
    for row, seed in enumerate([5, 9, 5]):
        alone = denoise(model, x[row : row + 1], 900, steps=10, eta=1.0, seed=seed)
        torch.testing.assert_close(together[row : row + 1], alone)
    counted = denoise(model, x, 900, steps=10, eta=1.0, seed=5)
    torch.testing.assert_close(counted, denoise(model, x, 900, steps=10, eta=1.0, seed=[5, 6, 7]))
    assert (counted - together).abs().max() > 0.1
    with pytest.raises(ValueError, match="one seed or 3, got 2"):
        denoise(model, x, 900, eta=1.0, seed=[5, 6])
    with pytest.raises(ValueError, match="seed"):
        denoise(model, x, 900, eta=1.0, seed=-1)
    with pytest.raises(ValueError, match="seed for each sample"):
        denoise(model, x, 900, eta=1.0)


def test_random_walks_have_the_spread_of_the_data():
    """Data of deviation 0.5 and a network that knows it: every walk arrives at that deviation."""
    scheduler = DDIMScheduler(clip_sample=False)
    schedule = Schedule(scheduler)

    def known(x, t):
        signal, sigma = schedule.signal_and_noise(t.long())
        signal, sigma = signal[:, None, None, None], sigma[:, None, None, None]
        return sigma * x / ((0.5 * signal) ** 2 + sigma**2)

    model = LatentModel(known, scheduler, latent_shape=(1, 32, 32))
    x = gaussian_noise((1, 32, 32), range(16))
    for chosen in ({}, {"eta": 0.5}, {"eta": 1.0}, {"solver": "ddpm"}, {"solver": "dpm++"}):
        found = denoise(model, x, 999, steps=250, seed=0, **chosen)
        assert float(found.std()) == pytest.approx(0.5, abs=0.02)


def test_options_that_do_not_exist_are_named(model, x):
    with pytest.raises(TypeError, match=r"unexpected option 'guidence'.*guidance"):
        denoise(model, x, 900, guidence=2.0)
    with pytest.raises(TypeError, match="Expected a LatentModel"):
        denoise("digits", x, 900)
    with pytest.raises(ValueError, match="solver of ddim"):
        denoise(model, x, 900, solver="euler")
    bad = x.clone()
    bad[1, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"NaN or Inf in samples \[1\]"):
        denoise(model, bad, 900)
    with pytest.raises(ValueError, match="Expected latents of shape"):
        denoise(model, x[:, :1], 900)


def test_options_stand_in_the_signature():
    names = list(inspect.signature(pullback.denoise).parameters)
    assert names[:4] == ["model", "x", "start", "stop"]
    assert names[4:] == list(pullback.models.WalkOptions.__annotations__)


def test_a_flow_takes_random_steps_too(x):
    """With a velocity that knows the data, noise is added and taken away again."""
    center = torch.full(SHAPE, 0.3, dtype=torch.float64)
    model = LatentModel(
        lambda x, t: (x - center) * (1000 / t.to(x))[:, None, None, None],
        FlowMatchEulerDiscreteScheduler(), latent_shape=SHAPE, dtype=torch.float64,
    )  # fmt: skip
    found = denoise(model, x, 1000, steps=10, eta=1.0, seed=3)
    torch.testing.assert_close(found, center.expand(3, -1, -1, -1))
    half = states(model, x, 1000, [500], steps=10, eta=1.0, seed=3)[500]
    assert (half - denoise(model, x, 1000, 500, steps=10)).abs().max() > 0.1
