"""Features of walks against those of the same latents, asked for one by one."""

import pytest
import torch

import pullback
from pullback import LatentModel, denoise, maps, states
from pullback.directions import trajectory
from tests.models.families import model_of

T = 599
QUICK = {"steps": 5}
TIMES = (599, 399, 199)


@pytest.fixture(scope="module")
def x(digits):
    return digits.sample_latents(3, T, seed=4, steps=5)


def asked(model, x, cond=None, tap=None, pool=None, **options):
    """The features of a walk's latents by passes of their own, [B, T, *h_shape]."""
    found = states(model, x, T, [*TIMES, -1], cond=cond, **QUICK, **options)
    map = maps.encoder(model, tap, pool=pool)
    with torch.no_grad():
        return torch.stack([map.at(found[t], t, cond).value() for t in TIMES], 1)


@pytest.mark.parametrize(
    "given",
    [{}, {"tap": "up_blocks.1"}, {"pool": "space"}, {"tap": "up_blocks.0", "pool": "space"}],
)
def test_a_trajectory_has_the_features_of_its_latents(digits, x, given):
    found = trajectory(digits, x, T, **given, **QUICK)
    assert found.times == TIMES
    expected = asked(digits, x, **given)
    assert found.features.shape == expected.shape
    torch.testing.assert_close(found.features, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.latents, denoise(digits, x, T, **QUICK), rtol=0, atol=0)


@pytest.mark.parametrize("options", [{"eta": 1.0, "seed": 3}, {"solver": "dpm++"}])
def test_of_other_walks_too(digits, x, options):
    found = trajectory(digits, x, T, **QUICK, **options)
    expected = asked(digits, x, **options)
    torch.testing.assert_close(found.features, expected, rtol=1e-4, atol=1e-5)


def test_with_guidance_they_are_those_of_the_conditional_pass(digits, x):
    cond = digits.encode(class_label=[1, 5, 8])
    found = trajectory(digits, x, T, cond=cond, guidance=3.0, **QUICK)
    expected = asked(digits, x, cond, guidance=3.0)
    torch.testing.assert_close(found.features, expected, rtol=1e-4, atol=1e-4)
    plain = trajectory(digits, x, T, guidance=3.0, negative=cond, **QUICK)
    assert (plain.features[:, 0] - found.features[:, 0]).abs().max() > 1e-2


def test_a_walk_may_stop_on_the_way(digits, x):
    found = trajectory(digits, x, T, 199, **QUICK)
    assert found.times == (599, 399)
    assert found.features.shape == (3, 2, 96, 4, 4)
    torch.testing.assert_close(found.latents, denoise(digits, x, T, 199, **QUICK))


def test_streams_of_transformers_are_read_by_their_taps():
    flow = model_of("SD3Transformer2DModel")
    x = flow.sample_latents(2, 600, seed=1, cond=(cond := flow.conditions.placeholder(2)), steps=5)
    found = trajectory(flow, x, 600, cond=cond, steps=5)
    assert found.times == (600, 400, 200)
    first = maps.encoder(flow).at(x, 600, cond).value()
    torch.testing.assert_close(found.features[:, 0], first.detach(), rtol=1e-4, atol=1e-5)


def test_nothing_is_left_behind_in_the_network(digits, x):
    trajectory(digits, x, T, **QUICK)
    assert not digits.network.mid_block._forward_hooks


def test_what_is_wrong_is_said(digits, x):
    with pytest.raises(ValueError, match="no module 'nowhere'"):
        trajectory(digits, x, T, tap="nowhere", **QUICK)
    with pytest.raises(ValueError, match='Expected pool="space"'):
        trajectory(digits, x, T, pool="time", **QUICK)
    with pytest.raises(ValueError, match="a stop below t = 599"):
        trajectory(digits, x, T, 599, **QUICK)
    with pytest.raises(ValueError, match="steps from whole timesteps"):
        trajectory(digits, x, T, grid="published", steps=30)
    with pytest.raises(ValueError, match="NaN or Inf in samples"):
        trajectory(digits, x / 0, T, **QUICK)
    with pytest.raises(TypeError, match="unexpected option 'speed'"):
        trajectory(digits, x, T, speed=2)
    with pytest.raises(TypeError, match="Expected a LatentModel"):
        trajectory(None, x, T)
    function = LatentModel(
        lambda x, t: x, digits.schedule.scheduler, latent_shape=digits.latent_shape
    )
    with pytest.raises(ValueError, match="plain function"):
        trajectory(function, x, T, **QUICK)


def test_features_that_are_not_finite_are_refused(x):
    model = pullback.load("digits")
    hook = lambda _m, _i, output: output / 0  # noqa: E731
    model.network.mid_block.register_forward_hook(hook)
    with pytest.raises(ValueError, match="feature at mid_block has NaN or Inf at t = 599"):
        trajectory(model, x, T, **QUICK)


def test_a_module_that_no_pass_reaches_is_refused(x):
    model = pullback.load("digits")
    model.network.add_module("idle", torch.nn.Identity())
    with pytest.raises(ValueError, match="without reaching 'idle'"):
        trajectory(model, x, T, tap="idle", **QUICK)
