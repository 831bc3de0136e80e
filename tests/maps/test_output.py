"""Maps of the output, of every kind of prediction and with guidance, against formulas."""

import math

import pytest
import torch
from diffusers import DDPMScheduler

import pullback
from pullback import LatentModel, maps
from pullback.testing import dense
from tests.maps.denoiser import (
    TEXT,
    WORDS,
    C,
    H,
    T,
    W,
    check,
    jacobians,
    model_of,
    times,
)


def formulas(kind, raw, x, t):
    """ε and x̂₀ from what a network predicts, as the papers have it."""
    if kind == "flow":
        sigma = t / 1000
        return x + (1 - sigma) * raw, x - sigma * raw
    alpha = float(DDPMScheduler().alphas_cumprod[t])
    signal, sigma = math.sqrt(alpha), math.sqrt(1 - alpha)
    if kind == "epsilon":
        return raw, (x - sigma * raw) / signal
    if kind == "sample":
        return (x - signal * raw) / sigma, raw
    return signal * raw + sigma * x, signal * x - sigma * raw


@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction", "flow"])
@pytest.mark.parametrize("t", [20, 400, 990])
def test_noise_denoised_and_score_follow_from_every_kind_of_prediction(network, x, kind, t):
    model = model_of(network, kind)
    assert model.schedule.prediction_type == kind
    raw = network(x, times(x, t))
    noise, clean = formulas(kind, raw, x, t)
    value = {name: maps.output(model, name).at(x, t).value() for name in maps.OUTPUTS}
    # The schedule is known in float32.
    close = {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(value["noise"], noise, **close)
    torch.testing.assert_close(value["denoised"], clean, **close)
    signal, sigma = (float(part) for part in model.schedule.signal_and_noise(torch.tensor([t])))
    torch.testing.assert_close(value["score"], -value["noise"] / sigma)
    # x holds signal and noise in these parts.
    torch.testing.assert_close(signal * value["denoised"] + sigma * value["noise"], x, **close)


@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction", "flow"])
@pytest.mark.parametrize("what", [0, 1])
def test_jacobians_of_the_output_maps(network, x, kind, what):
    model = model_of(network, kind)

    def f(point, rows):
        return formulas(kind, network(point, times(point)), point, T)[what]

    bound = maps.output(model, maps.OUTPUTS[what]).at(x, T)
    torch.testing.assert_close(dense(bound.operator()), jacobians(f, x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction", "flow"])
def test_a_perfect_prediction_is_taken_apart_exactly(kind, rng):
    # The network knows x₀ and ε, so all maps must give them back.
    clean, noise = torch.randn(2, 4, C, H, W, generator=rng, dtype=torch.float64)
    t = 700
    model = model_of(lambda x, t: x, kind, dtype=torch.float64)
    signal, sigma = (float(part) for part in model.schedule.signal_and_noise(torch.tensor([t])))
    model.network = lambda x, t: {
        "epsilon": noise,
        "sample": clean,
        "v_prediction": signal * noise - sigma * clean,
        "flow": noise - clean,
    }[kind]
    x = signal * clean + sigma * noise
    for name, truth in (("noise", noise), ("denoised", clean), ("score", -noise / sigma)):
        found = maps.output(model, name).at(x, t).value()
        torch.testing.assert_close(found, truth, rtol=1e-5, atol=1e-5)


def test_samples_of_one_batch_may_be_at_different_timesteps(network, model, x):
    t = torch.tensor([20, 400, 900])
    value = maps.output(model, "denoised").at(x, t).value()
    for b in range(3):
        alone = maps.output(model, "denoised").at(x[b : b + 1], int(t[b])).value()
        torch.testing.assert_close(value[b : b + 1], alone, rtol=1e-10, atol=1e-12)


def test_output_with_respect_to_the_prompt(network, model, x, words):
    def f(point, rows):
        return network(x[rows], times(point), point)

    check(maps.output(model, "noise", wrt="prompt"), x, {"encoder_hidden_states": words}, f, words)


def test_kinds_that_do_not_exist(model):
    for make in (lambda: maps.output(model, "eps"), lambda: maps.decoder(model, "first", "eps")):
        with pytest.raises(ValueError, match="one of noise, denoised, score, got 'eps'"):
            make()
    with pytest.raises(ValueError, match='wrt to be "x" or "prompt", got \'y\''):
        maps.output(model, wrt="y")


def test_where_there_is_no_noise_there_is_no_score(network, x):
    map = maps.output(model_of(network, "flow"), "score")
    with pytest.raises(ValueError, match=r"share of noise in x_t, which is 0 at t = \[0\]"):
        map.at(x, torch.tensor([5, 0, 5])).value()
    # The other maps need no such division.
    for kind in ("noise", "denoised"):
        value = maps.output(model_of(network, "flow"), kind).at(x, 0).value()
        assert bool(value.isfinite().all())
    scheduler = DDPMScheduler(rescale_betas_zero_snr=True)
    model = LatentModel(network, scheduler, latent_shape=(C, H, W))
    with pytest.raises(ValueError, match=r"share of signal in x_t, which is 0 at t = \[999"):
        maps.output(model, "denoised").at(x, 999).value()


@pytest.mark.parametrize("kind", ["noise", "denoised"])
def test_guidance_mixes_the_predictions(network, x, words, rng, kind):
    other = torch.randn(1, WORDS, TEXT, generator=rng, dtype=torch.float64)
    model = model_of(network, "v_prediction", null_cond={"encoder_hidden_states": other[0]})
    many = torch.randn(3, WORDS, TEXT, generator=rng, dtype=torch.float64)
    for negative, used in (
        (None, other.expand(3, -1, -1)),
        ({"encoder_hidden_states": many}, many),
        ({"encoder_hidden_states": many[:1]}, many[:1].expand(3, -1, -1)),
    ):
        map = maps.output(model, kind, guidance=4.5, negative=negative)

        def f(point, rows, used=used):
            away = network(point, times(point), used[rows])
            raw = away + 4.5 * (network(point, times(point), words[rows]) - away)
            return formulas("v_prediction", raw, point, T)[maps.OUTPUTS.index(kind)]

        bound = map.at(x, T, {"encoder_hidden_states": words})
        close = {"rtol": 1e-5, "atol": 1e-5}
        torch.testing.assert_close(bound.value(), f(x, slice(0, 3)), **close)
        torch.testing.assert_close(dense(bound.operator()), jacobians(f, x), **close)
    assert "guidance 4.5" in map.name


def test_guidance_with_respect_to_the_prompt_leaves_the_negative_one(network, x, words, rng):
    other = torch.randn(3, WORDS, TEXT, generator=rng, dtype=torch.float64)
    map = maps.output(
        model_of(network), guidance=3.0, negative={"encoder_hidden_states": other}, wrt="prompt"
    )

    def f(point, rows):
        away = network(x[rows], times(point), other[rows])
        return away + 3.0 * (network(x[rows], times(point), point) - away)

    check(map, x, {"encoder_hidden_states": words}, f, words)


def test_a_negative_condition_of_every_sample_stays_with_its_sample(network, x, words, rng):
    other = 3 * torch.randn(3, WORDS, TEXT, generator=rng, dtype=torch.float64)
    negative, cond = {"encoder_hidden_states": other}, {"encoder_hidden_states": words}
    map = maps.output(model_of(network), guidance=3.0, negative=negative)
    found = pullback.basis(map, x, T, 2, cond, quality="tight")
    larger = found[[2, 0]].extend(4)
    alone = pullback.basis(
        maps.output(
            model_of(network), guidance=3.0, negative={"encoder_hidden_states": other[[2, 0]]}
        ),
        x[[2, 0]], T, 4, {"encoder_hidden_states": words[[2, 0]]}, quality="tight",
    )  # fmt: skip
    torch.testing.assert_close(larger.s, alone.s, rtol=1e-6, atol=0)


def test_a_negative_condition_is_checked_when_the_map_is_made(digits):
    with pytest.raises(ValueError, match="got 'class_label'"):
        maps.output(digits, guidance=2.0, negative={"class_label": torch.tensor([1])})
    with pytest.raises(ValueError, match="no effect at guidance = 1"):
        maps.output(digits, negative={"class_labels": torch.tensor([1])})
    with pytest.raises(TypeError, match="Expected cond as a mapping"):
        maps.output(digits, guidance=2.0, negative=torch.tensor([1]))
    # Labels need no tensor, as in a condition.
    assert maps.output(digits, guidance=2.0, negative={"class_labels": [1]}).negative is not None
