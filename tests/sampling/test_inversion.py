"""Inversions: round trips of real digits, of flows and of other schedules, and their advice."""

from itertools import pairwise

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    EDMEulerScheduler,
    FlowMatchEulerDiscreteScheduler,
)

import pullback
from pullback import LatentModel, denoise, invert, states
from pullback.models import Schedule
from pullback.sampling import even_grid, level, step
from tests.models import hub
from tests.models.callables import SHAPE, model_of

TOP = 980


@pytest.fixture(scope="module")
def data():
    """32 real digits, and their classes."""
    pytest.importorskip("sklearn", reason="the digits are scikit-learn's")
    from pullback.zoo.digits.data import load_digits, resample

    images, labels = load_digits()
    return resample(images[:32]), labels[:32].tolist()


@pytest.fixture(scope="module")
def cond(digits, data):
    return digits.encode(class_label=data[1])


@pytest.fixture(scope="module")
def corrected(digits, data, cond):
    return invert(digits, data[0], TOP, cond=cond, corrections=1)


def db(found, data):
    """PSNR of each sample, of pixels from −1 to 1, by its definition."""
    square = (found.double() - data.double()).square().flatten(1).mean(1)
    return 10 * torch.log10(4 / square)


@pytest.mark.slow
def test_plain_inversion_of_digits(digits, data, cond):
    plain = invert(digits, data[0], TOP, cond=cond, steps=200)
    assert plain.psnr.median() >= 40
    assert plain.advice == ()
    torch.testing.assert_close(plain.psnr, db(plain.restore(), data[0]))


def test_corrected_inversion_of_digits(digits, data, corrected, cond):
    x = data[0]
    assert corrected.psnr.shape == (32,)
    assert corrected.psnr.median() >= 45
    assert (corrected.t, corrected.residuals, corrected.advice) == (TOP, None, ())
    back = denoise(digits, corrected.x, TOP, cond=cond, clip=False)
    assert torch.equal(corrected.restore(), back)
    torch.testing.assert_close(corrected.psnr, db(back, x))
    error = (back - x).flatten(1).norm(dim=1) / x.flatten(1).norm(dim=1)
    torch.testing.assert_close(corrected.error.float(), error, rtol=1e-3, atol=0)
    # Latents at the top are close to noise.
    assert 0.8 <= corrected.x.std() <= 1.2


def test_corrections_make_the_round_trip_better(digits, data):
    x, cond = data[0][:4], digits.encode(class_label=data[1][:4])
    found = [
        invert(digits, x, 600, cond=cond, steps=25, corrections=count).psnr.min()
        for count in (0, 1, 3)
    ]
    assert found[0] + 3 < found[1]
    assert found[1] < found[2]


@pytest.mark.parametrize("eta", [0.5, 1.0])
@pytest.mark.parametrize("scheme", ["independent", "chain", "posterior"])
def test_stochastic_inversion_is_exact(digits, data, scheme, eta):
    x, cond = data[0][:4], digits.encode(class_label=data[1][:4])
    given = {"method": "stochastic", "scheme": scheme, "cond": cond, "steps": 20, "eta": eta}
    found = invert(digits, x, 900, **given)
    assert found.psnr.min() >= 120
    assert db(found.restore(), x).min() >= 120
    assert set(found.residuals) == {*range(850, -1, -50), -1}
    # The noise is of the sample's seed, whatever the batch.
    alone = invert(
        digits, x[2:3], 900, **given | {"cond": digits.encode(class_label=data[1][2])}, seed=2
    )
    torch.testing.assert_close(alone.x, found.x[2:3])
    assert not torch.equal(invert(digits, x, 900, **given, seed=9).x, found.x)


@pytest.mark.parametrize("clip", [True, False])
def test_stochastic_inversion_is_exact_where_steps_clip(digits, data, clip):
    x = data[0][:4]
    found = invert(digits, x, 900, method="stochastic", steps=20, clip=clip, guidance=3.0,
                   cond=digits.encode(class_label=data[1][:4]))  # fmt: skip
    assert found.psnr.min() >= 120


def spread(found, x, schedule):
    """The deviation of the noise in latents by timestep, and its correlation with the next."""
    away = {}
    for t, latents in found.items():
        here = level(schedule, t)
        away[t] = ((latents - here.signal * x) / here.sigma).flatten() if t >= 0 else None
    pairs = [(away[t], away[to]) for t, to in pairwise(found) if to >= 0]
    alike = [float(torch.corrcoef(torch.stack(pair))[0, 1]) for pair in pairs]
    return [float(one.std()) for one in away.values() if one is not None], alike


@pytest.mark.parametrize("scheme", ["independent", "chain", "posterior"])
def test_schemes_draw_the_noise_of_the_forward_process(rng, scheme):
    """At each timestep alike; from one to the next as its Markov chain has it, but one of them."""
    schedule = Schedule(DDIMScheduler())
    x = torch.randn(1, 1, 128, 128, generator=rng)
    grid = even_grid(schedule, 900, steps=10)
    drawn = pullback.sampling.scatter(
        schedule, x, grid, pullback.sampling.FreshNoise([3]), scheme=scheme
    )
    assert torch.equal(drawn[-1], x)
    deviations, alike = spread({t: drawn[t] for t in grid}, x, schedule)
    assert deviations == pytest.approx([1.0] * 10, abs=0.03)
    pairs = [(level(schedule, t), level(schedule, to)) for t, to in pairwise(grid[:-1])]
    chain = [here.signal / there.signal * there.sigma / here.sigma for here, there in pairs]
    truth = [0.0] * 9 if scheme == "independent" else chain
    assert alike == pytest.approx(truth, abs=0.04)


@pytest.fixture
def x(rng):
    return torch.randn(3, *SHAPE, generator=rng, dtype=torch.float64)


@pytest.mark.parametrize(
    "scheduler",
    [
        DDIMScheduler(clip_sample=False),
        DDIMScheduler(clip_sample=False, set_alpha_to_one=False),
        DDIMScheduler(clip_sample=False, prediction_type="sample"),
        DDIMScheduler(clip_sample=False, prediction_type="v_prediction"),
        FlowMatchEulerDiscreteScheduler(),
        EDMEulerScheduler(),
        EDMEulerScheduler(prediction_type="v_prediction", sigma_data=1.0),
    ],
    ids=["epsilon", "not to one", "sample", "v_prediction", "flow", "EDM", "EDM, v_prediction"],
)
@pytest.mark.parametrize("method", ["ddim", "stochastic"])
def test_round_trips_of_every_kind_of_schedule(x, scheduler, method):
    """The same noise is seen in latents, whatever the network says of it."""
    schedule = Schedule(scheduler)

    def network(x, t):
        noise = 0.4 * torch.tanh(x)
        here = level(schedule, int(t[0]))
        return (x - here.sigma * noise) / here.signal if kind == "sample" else noise

    kind, model = schedule.prediction_type, model_of(network, scheduler)
    chosen = {"corrections": 30} if method == "ddim" else {"method": method}
    found = invert(model, x, 900, steps=10, **chosen)
    assert found.error.max() <= 1e-6
    edited = found.restore(found.x + 0.1)
    assert edited.shape == x.shape
    assert (edited - x).abs().max() > 1e-3
    if method == "ddim":
        expected = denoise(model, found.x + 0.1, 900, steps=10, clip=False)
        torch.testing.assert_close(edited, expected)


@pytest.mark.parametrize("scheduler", [DDIMScheduler, FlowMatchEulerDiscreteScheduler])
def test_a_linear_network_has_an_exact_solution(x, scheduler):
    """Each step down is a multiple, so that each step up is the division by it."""
    model = model_of(lambda x, t: 0.4 * x, scheduler(), null_cond={})
    grid = even_grid(model.schedule, 900, steps=10)
    factor = 1.0
    one = torch.ones((), dtype=torch.float64)
    for t, to in pairwise(grid):
        factor *= float(step(model.schedule, 0.4 * one, one, t, to, clip=False))
    found = invert(model, x, 900, steps=10, corrections=60)
    torch.testing.assert_close(found.x, x / factor, rtol=1e-8, atol=1e-10)
    assert found.psnr.min() > 150


def test_a_latent_model_measures_by_the_range_of_the_latents(tmp_path):
    """Stable Diffusion 3, a flow of latents, with its pipeline."""
    case = hub.Case("Stable Diffusion 3", hub.BUILDERS["Stable Diffusion 3"](tmp_path))
    latents, cond = case.latents(2), case.condition("a cat")
    found = invert(case.model, latents, 600, cond=cond, steps=20, corrections=5)
    square = (found.restore() - latents).square().flatten(1).mean(1)
    flat = latents.flatten(1)
    peak = flat.max(1).values - flat.min(1).values
    expected = (10 * torch.log10(peak**2 / square)).double()
    torch.testing.assert_close(found.psnr, expected, rtol=1e-3, atol=1e-2)
    assert found.psnr.min() >= 40
    exact = invert(case.model, latents, 600, cond=cond, steps=20, method="stochastic")
    assert exact.psnr.min() >= 100


def test_an_inversion_without_a_check_measures_nothing(digits, data, corrected):
    x = data[0][:2]
    steps = []
    found = invert(digits, x, 500, check=False, steps=10, progress=lambda *now: steps.append(now))
    assert bool(found.psnr.isnan().all())
    assert bool(found.error.isnan().all())
    assert found.advice == ()
    assert steps == [(done, 6) for done in range(1, 7)]
    checked = invert(digits, x, 500, steps=10)
    assert torch.equal(checked.x, found.x)
    assert bool(checked.psnr.isfinite().all())


def test_restoring_takes_other_latents(digits, corrected):
    with pytest.raises(ValueError, match="Expected latents of shape"):
        corrected.restore(corrected.x[:, :, :8])


def test_a_stochastic_inversion_restores_edits_by_its_own_noise(digits, data):
    x = data[0][:2]
    found = invert(digits, x, 900, method="stochastic", steps=20)
    edited = found.restore(found.x + 0.2)
    by_hand = found.walker.down(found.x + 0.2, found.walker.grid(900), residuals=found.residuals)
    assert torch.equal(edited, by_hand)
    assert (edited - x).abs().max() > 1e-2


def test_the_published_grid_ends_at_zero(digits, data):
    x = data[0][:2]
    found = invert(digits, x, TOP, steps=40, corrections=2, grid="published")
    assert found.end == 0
    assert found.psnr.min() > 20
    assert torch.equal(
        found.restore(), denoise(digits, found.x, TOP, 0, steps=40, grid="published", clip=False)
    )


ADVICE = {
    "guidance": ({"guidance": 7.5}, 900),
    "clipped": ({"clip": True}, 900),
    "steps are few": ({"steps": 5}, 900),
    "published": ({"grid": "published", "steps": 8}, 900),
    "first order": ({"steps": 5}, 900),
    "invert to a lower t": ({"steps": 10}, 999),
}


@pytest.mark.parametrize("reason", ADVICE)
def test_a_bad_round_trip_is_advised_on(digits, data, reason):
    options, t = ADVICE[reason]
    x, cond = data[0][:4], digits.encode(class_label=data[1][:4])
    found = invert(digits, x, t, cond=cond, **{"steps": 5, **options})
    assert found.psnr.min() < 30
    assert any(reason in advice for advice in found.advice)
    assert not any("prediction_type" in advice for advice in found.advice)
    named = {"guidance", "clipped", "published"} - {reason}
    assert not any(one in advice for one in named for advice in found.advice)


@pytest.mark.parametrize("stated", ["v_prediction", "sample"])
def test_a_wrong_kind_of_prediction_is_suspected_first(digits, data, stated):
    config = {**digits.schedule.scheduler.config, "prediction_type": stated}
    model = LatentModel(
        digits.network, DDPMScheduler.from_config(config),
        null_cond={"class_labels": torch.tensor(10)},
    )  # fmt: skip
    x, cond = data[0][:4], digits.encode(class_label=data[1][:4])
    found = invert(model, x, 900, cond=cond, steps=10)
    assert f"does not seem to predict '{stated}': taken for 'epsilon'" in found.advice[0]
    assert "check the scheduler's prediction_type" in found.advice[0]


def test_a_walk_down_from_inverted_latents_comes_by_those_inverted_lower(digits, data):
    x = data[0][:2]
    found = invert(digits, x, 600, corrections=2, check=False)
    lower = invert(digits, x, 300, corrections=2, check=False)
    way = states(digits, found.x, 600, [300, -1], clip=False)
    assert (way[300] - lower.x).abs().max() <= 1e-2
    assert (way[-1] - x).abs().max() <= 2e-2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eta": 0.5}, "steps that can be undone"),
        ({"eta": lambda t: 0.0}, "steps that can be undone"),
        ({"solver": "ddpm"}, "steps that can be undone"),
        ({"solver": "dpm++"}, "steps that can be undone"),
        ({"method": "stochastic", "solver": "dpm++"}, "steps that can be undone"),
        ({"method": "stochastic", "eta": 0}, "eta as a number above 0"),
        ({"method": "stochastic", "eta": lambda t: 1.0}, "eta as a number above 0"),
        ({"method": "stochastic", "eta": 1.5}, "eta"),
        ({"method": "stochastic", "eta": -1}, "eta"),
        ({"method": "stochastic", "seed": None}, "seed"),
        ({"method": "stochastic", "scheme": "odd"}, "scheme of independent, chain, posterior"),
        ({"scheme": "odd"}, "scheme of independent, chain, posterior"),
        ({"method": "euler"}, "method of ddim, stochastic, got 'euler'"),
        ({"corrections": -1}, "corrections"),
        ({"corrections": 1.5}, "corrections"),
        ({"corrections": True}, "corrections"),
        ({"grid": "odd"}, 'grid="even"'),
        ({"steps": 0}, "steps between 1 and 1000"),
    ],
)
def test_what_is_no_inversion_is_refused(digits, data, options, message):
    with pytest.raises(ValueError, match=message):
        invert(digits, data[0][:2], 900, **options)


def test_what_cannot_be_inverted_is_refused(digits, data):
    x = data[0][:2].clone()
    with pytest.raises(TypeError, match="Expected a LatentModel"):
        invert("digits", x, 900)
    with pytest.raises(TypeError, match="unexpected option 'correction'"):
        invert(digits, x, 900, correction=1)
    with pytest.raises(ValueError, match="Expected latents of shape"):
        invert(digits, x[0], 900)
    with pytest.raises(ValueError, match="between 0 and 999, got 1000"):
        invert(digits, x, 1000)
    x[1, 0, 3, 3] = torch.nan
    with pytest.raises(ValueError, match=r"NaN or Inf in samples \[1\]"):
        invert(digits, x, 900)
