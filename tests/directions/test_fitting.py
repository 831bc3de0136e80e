"""Whether a direction fits a model: errors where it cannot, warnings where it may mislead."""

import warnings

import pytest
import torch
from diffusers import DDPMScheduler

from pullback import Direction, LatentModel
from tests.directions.made import drawn
from tests.models.families import model_of


@pytest.fixture(autouse=True)
def no_unexpected_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def of(model, vector, space, **given):
    return Direction.of(vector, space, model=model, **given)


def test_what_fits_is_silent(digits):
    for tap in digits.taps():
        feature = torch.randn(tap.shape)
        of(digits, feature, "h", tap=tap.path, t=500).check_fits(digits, 500)
        pooled = feature.mean((1, 2))
        of(digits, pooled, "h", tap=tap.path, pool="space", t=500).check_fits(digits, 500)
    of(digits, torch.randn(1, 16, 16), "x", t=500).check_fits(digits, 500)
    of(digits, torch.randn(1, 16, 16), "x").check_fits(digits, 77)
    of(digits, torch.randn(1, 16, 16), "x", window=(900, 400)).check_fits(digits, 400)
    of(digits, torch.randn(1, 16, 16), "x", t=3).check_fits(digits)


@pytest.mark.parametrize(
    ("shape", "space", "given", "words"),
    [
        ((1, 16, 8), "x", {}, r"Expected a direction of shape \[1, 16, 16\] .* got \[1, 16, 8\]"),
        ((256,), "x", {}, r"got \[256\]"),
        ((96, 4, 3), "h", {"tap": "mid_block"}, r"shape \[96, 4, 4\] in the feature at mid_block"),
        ((96,), "h", {"tap": "mid_block"}, r"shape \[96, 4, 4\] .* got \[96\]"),
        ((64,), "h", {"tap": "mid_block", "pool": "space"}, r"shape \[96\] in the pooled feature"),
        ((96, 4, 4), "h", {"tap": "middle"}, "does not give: digits has no module 'middle'"),
        ((96, 4, 4), "h", {"tap": "mid_block:3"}, "does not give.*no mid_block:3"),
        ((5, 32), "prompt", {}, "Expected a model with a prompt .*takes class_labels"),
    ],
)
def test_what_does_not_fit(digits, shape, space, given, words):
    found = of(digits, torch.randn(shape), space, **given)
    with pytest.raises(ValueError, match=words):
        found.check_fits(digits)


def test_no_model(digits):
    with pytest.raises(TypeError, match="Expected a LatentModel, got"):
        drawn().check_fits(digits.network)


def test_another_timestep_warns_and_one_that_does_not_exist_raises(digits):
    found = of(digits, torch.randn(1, 16, 16), "x", t=500)
    with pytest.warns(UserWarning, match=r"meant for t=500, .* at t=510") as caught:
        found.check_fits(digits, 510)
    assert caught[0].filename == __file__
    found = found.with_window(800, 400)
    found.check_fits(digits, 510)
    with pytest.warns(UserWarning, match=r"meant for t=800 to 400, .* at t=399"):
        found.check_fits(digits, 399)
    for wrong in (-1, 1000, 0.5, "5"):
        with pytest.raises(ValueError, match="whole training timestep"):
            found.check_fits(digits, wrong)


def test_other_weights_and_dtypes_warn(digits, digits64):
    found = of(digits, torch.randn(1, 16, 16), "x")
    with pytest.warns(UserWarning, match=r"float32\), and digits has other.*float64") as caught:
        found.check_fits(digits64)
    assert caught[0].filename == __file__
    # Without a fingerprint there is nothing to compare.
    Direction.of(torch.randn(1, 16, 16), "x").check_fits(digits64)


def test_prompts_are_compared_by_their_width():
    flow = model_of("SD3Transformer2DModel")
    width = flow.conditions.placeholder(1)["encoder_hidden_states"].shape[-1]
    for tokens in (1, 9):
        of(flow, torch.randn(tokens, width), "prompt").check_fits(flow)
    with pytest.raises(ValueError, match=f"of width {width} in the prompts"):
        of(flow, torch.randn(9, width + 1), "prompt").check_fits(flow)


def test_two_streams_are_tapped_by_their_index():
    flow = model_of("SD3Transformer2DModel")
    for tap in flow.taps():
        of(flow, torch.randn(tap.shape), "h", tap=tap.path).check_fits(flow)
    path = flow.taps()[0].path
    text, image = (
        Direction.of(torch.randn(1, 1), "h", tap=(path, index), model=flow) for index in (0, 1)
    )
    assert image.tap == f"{path}:1"
    for found in (text, image):
        with pytest.raises(ValueError, match=f"feature at {path}:"):
            found.check_fits(flow)


def test_a_plain_function_has_no_features_and_does_not_tell_its_prompts():
    def f(x, t, **cond):
        return x

    plain = LatentModel(
        f, DDPMScheduler(), latent_shape=(2, 3), device="cpu", dtype=torch.float32
    )  # fmt: skip
    of(plain, torch.randn(2, 3), "x").check_fits(plain)
    of(plain, torch.randn(4, 3), "prompt").check_fits(plain)
    with pytest.raises(ValueError, match="plain function"):
        of(plain, torch.randn(4, 3), "h", tap="mid_block").check_fits(plain)


def test_the_network_is_left_as_it_was(digits):
    before = {name: len(m._forward_hooks) for name, m in digits.network.named_modules()}
    of(digits, torch.randn(96, 4, 4), "h", tap="mid_block").check_fits(digits)
    assert {name: len(m._forward_hooks) for name, m in digits.network.named_modules()} == before
