"""Denoisers of one's own: plain callables and modules."""

import functools
import types

import pytest
import torch
from diffusers import DDPMScheduler
from torch import nn

import pullback
from pullback import LatentModel, LocalBasis, maps
from pullback.testing import leading, sine
from tests.models.callables import SHAPE, N, T, denoiser, model_of


@pytest.fixture
def weight(rng):
    return torch.randn(N, N, generator=rng, dtype=torch.float64) / 3


def slopes(f, weight, x, **cond):
    """Its Jacobians [B, 12, 12]."""
    value = f(x, torch.full((len(x),), T), **cond).flatten(1)
    return (1 - value.square()).unsqueeze(2) * weight


@pytest.fixture
def x(rng):
    return torch.randn(3, *SHAPE, generator=rng, dtype=torch.float64)


class Net(nn.Module):
    """Two blocks in a list, one module by itself, one that returns two tensors."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.blocks = nn.ModuleList([nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 3, padding=1)])
        self.head = nn.Conv2d(2, 2, 1)
        self.pair = Pair()

    def forward(self, x, t):
        h = x + torch.sin(t.to(x) / 100)[:, None, None, None]
        for block in self.blocks:
            h = torch.tanh(block(h))
        return self.head(self.pair(h)[1])


class Pair(nn.Module):
    def forward(self, h):
        return h.mean((2, 3)), torch.sin(h)


def test_maps_of_the_output_of_a_plain_function(weight, x, rng):
    f = denoiser(weight)
    model = model_of(f, name="mine")
    word = torch.randn(3, N, generator=rng, dtype=torch.float64)
    for cond in ({}, {"word": word}, {"word": word[:1]}):
        truth = slopes(f, weight, x, **cond)
        found = pullback.basis(maps.output(model), x, T, 3, cond, quality="tight")
        assert float(sine(found.v, leading(truth, 3)[2]).max()) < 1e-4
        torch.testing.assert_close(found.s, leading(truth, 3)[1], rtol=1e-6, atol=0)
    assert "mine: custom" in repr(model)
    assert model.conditions.of(None, 3) == {}


def test_an_encoder_of_a_plain_function_says_what_is_missing(weight, x):
    model = model_of(denoiser(weight))
    for attempt in (
        lambda: pullback.local_basis(model, x, T, 2),
        lambda: maps.encoder(model, "mid_block"),
        lambda: maps.decoder(model),
        lambda: maps.decoder(model, "mid_block"),
    ):
        with pytest.raises(ValueError, match="plain function, which has no modules to tap"):
            attempt()
    assert model.taps() == []


def test_a_method_a_partial_and_an_object_are_callables_too(weight, x):
    f = denoiser(weight)
    holder = types.SimpleNamespace(f=f)
    truth = f(x, torch.full((3,), T))

    class Caller:
        def __call__(self, x, t):
            return f(x, t)

    for one in (holder.f, functools.partial(f, word=None), Caller(), torch.no_grad()(f)):
        assert torch.equal(maps.output(model_of(one)).at(x, T).value(), truth)
        assert len(model_of(one).fingerprint) == 16
    with pytest.raises(TypeError, match=r"diffusers or a callable.*got int"):
        model_of(3)


def test_an_output_object_may_hold_the_prediction(weight, x):
    f = denoiser(weight)
    model = model_of(lambda x, t: types.SimpleNamespace(sample=f(x, t), other=None))
    assert torch.equal(maps.output(model).at(x, T).value(), f(x, torch.full((3,), T)))


def test_more_channels_than_latents_are_a_learned_variance(weight, x):
    f = denoiser(weight)
    model = model_of(lambda x, t: torch.cat([f(x, t), 5 * f(x, t)], 1))
    assert torch.equal(maps.output(model).at(x, T).value(), f(x, torch.full((3,), T)))


@pytest.mark.parametrize(
    ("f", "error", "message"),
    [
        (lambda x, t: (x,), TypeError, "an object with it as sample, got tuple"),
        (lambda x, t: {"sample": x}, TypeError, "got dict"),
        (lambda x, t: types.SimpleNamespace(sample=None), TypeError, "got SimpleNamespace"),
        # These would be spread over the latents without a word.
        (lambda x, t: x[:, :1], ValueError, r"predict \[3, 2, 3, 2\].*got shape \[3, 1, 3, 2\]"),
        (lambda x, t: x[:, :, :1], ValueError, r"got shape \[3, 2, 1, 2\]"),
        (lambda x, t: x[:1], ValueError, r"got shape \[1, 2, 3, 2\]"),
        (lambda x, t: x.flatten(1), ValueError, r"got shape \[3, 12\]"),
    ],
)
def test_predictions_of_another_kind_or_shape(x, f, error, message):
    with pytest.raises(error, match=message):
        maps.output(model_of(f), "denoised").at(x, T).value()


def test_a_latent_shape_is_needed(weight):
    with pytest.raises(ValueError, match=r"not known. Pass latent_shape=\(C, H, W\)"):
        LatentModel(denoiser(weight), DDPMScheduler())
    for wrong in ((), (2, 3, 0), (-1, 2, 3)):
        with pytest.raises(ValueError, match=r"Expected latent_shape as positive sizes such as"):
            LatentModel(denoiser(weight), DDPMScheduler(), latent_shape=wrong)


def test_dtype_and_device_of_a_callable(weight, x):
    f = denoiser(weight)
    assert model_of(f).dtype == torch.float64
    plain = LatentModel(f, DDPMScheduler(), latent_shape=list(SHAPE))
    assert (plain.dtype, plain.device) == (torch.float32, torch.device("cpu"))
    assert LatentModel(f, DDPMScheduler(), latent_shape=SHAPE, device="meta").device.type == "meta"
    with pytest.raises(ValueError, match=r"latents in torch.float32 on cpu.*got torch.float64"):
        maps.output(plain).at(x, T)
    latents = plain.sample_latents(2, T)
    assert (latents.dtype, latents.shape) == (torch.float32, (2, *SHAPE))
    # A module knows, and so does one without parameters if it is told.
    assert model_of(Net().eval().double(), dtype=None).dtype == torch.float64
    assert model_of(nn.Identity().eval(), dtype=torch.float16).dtype == torch.float16


def test_guidance_and_a_null_condition_of_a_callable(weight, x, rng):
    f = denoiser(weight)
    null, word = torch.randn(2, 1, N, generator=rng, dtype=torch.float64)
    model = model_of(f, null_cond={"word": null[0]})
    t = torch.full((3,), T)
    away = f(x, t, null)
    assert torch.equal(maps.output(model).at(x, T).value(), away)
    found = maps.output(model, guidance=2.5).at(x, T, {"word": word}).value()
    torch.testing.assert_close(found, away + 2.5 * (f(x, t, word) - away))


def test_conditions_in_mappings_reach_the_callable(x):
    seen = []

    def f(x, t, extra):
        seen.append(extra)
        return x * extra["scale"][:, None, None, None]

    scale = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    value = maps.output(model_of(f)).at(x, T, {"extra": {"scale": scale}}).value()
    assert torch.equal(value, x * scale[:, None, None, None])
    assert all(list(extra) == ["scale"] for extra in seen)


@pytest.fixture
def net():
    return Net().eval().double()


def test_the_default_tap_is_asked_for_with_the_blocks(net, x):
    model = model_of(net)
    for attempt in (lambda: pullback.local_basis(model, x, T, 2), lambda: maps.decoder(model)):
        with pytest.raises(
            ValueError,
            match=r"module of this Net holds.*tap=path, for example one of blocks\.0, blocks\.1",
        ):
            attempt()


def test_taps_of_a_module_name_every_tensor(net, x):
    model = model_of(net)
    taps = model.taps()
    assert [tap.path for tap in taps] == ["blocks.0", "blocks.1", "pair:0", "pair:1", "head"]
    assert [tap.shape for tap in taps] == [SHAPE, SHAPE, (2,), SHAPE, SHAPE]
    assert [tap.share for tap in taps] == sorted(tap.share for tap in taps)
    for tap in taps:
        value = maps.encoder(model, tap.path).at(x, T).value()
        assert tuple(value.shape) == (3, *tap.shape)
        assert torch.equal(maps.encoder(model, tap).at(x, T).value(), value)


def test_a_local_basis_of_a_module(net, x):
    model = model_of(net)

    def f(point):
        h = point + torch.sin(torch.tensor(3.0, dtype=torch.float64))
        for block in net.blocks:
            h = torch.tanh(block(h))
        return torch.sin(h)

    found = pullback.local_basis(model, x, T, 3, ("pair", 1), quality="tight")
    for b in range(3):
        truth = torch.autograd.functional.jacobian(f, x[b : b + 1]).reshape(1, N, N)
        assert float(sine(found[b].v, leading(truth, 3)[2])) < 1e-4
        torch.testing.assert_close(found[b].s, leading(truth, 3)[1], rtol=1e-6, atol=0)
    assert found.provenance["tap"] == "pair:1"


def test_a_module_in_training_mode_is_refused():
    with pytest.raises(ValueError, match=r"training mode.*network\.eval"):
        model_of(Net())


def test_a_module_with_any_config_has_a_fingerprint(net):
    plain = model_of(net).fingerprint
    net.config = types.SimpleNamespace(width=2)
    named = model_of(net).fingerprint
    net.config = {"width": 2}
    assert model_of(net).fingerprint == named != plain
    net.config = "a string"
    assert model_of(net).fingerprint == plain
    assert model_of(Net(seed=1).eval().double()).fingerprint != plain


def all_maps(model):
    return {
        "encoder": maps.encoder(model, ("pair", 1)),
        "pooled": maps.encoder(model, "blocks.0", pool="space"),
        "decoder": maps.decoder(model, "blocks.1", "denoised"),
        "noise": maps.output(model),
        "score": maps.output(model, "score"),
        "then": maps.output(model, "denoised").then(torch.sin),
        "masked": maps.output(model, "denoised").restrict(torch.eye(3, 2, dtype=torch.bool)),
    }


NAMES = {
    "encoder": ("encoder pair:1", "x", "pair:1"),
    "pooled": ("encoder blocks.0, pooled over space", "x", "blocks.0"),
    "decoder": ("decoder blocks.1 to denoised", "h", "blocks.1"),
    "noise": ("noise", "x", None),
    "score": ("score", "x", None),
    "then": ("denoised then sin", "x", None),
    "masked": ("denoised on 2 of 6", "x", None),
}


@pytest.mark.parametrize("name", NAMES)
def test_bases_of_every_map_are_kept_in_files_with_their_provenance(net, x, name, tmp_path):
    model = model_of(net, name="mine")
    found = pullback.basis(all_maps(model)[name], x, T, 2)
    map, wrt, tap = NAMES[name]
    expected = {"model": "mine", "map": map, "wrt": wrt, "tap": tap, "t": [T] * 3}
    assert found.provenance.items() >= expected.items()
    found.save(tmp_path / "basis.safetensors")
    again = LocalBasis.load(tmp_path / "basis.safetensors")
    assert again.provenance == found.provenance
    for part in ("u", "s", "v", "residual", "angle_bound", "converged"):
        assert torch.equal(getattr(again, part), getattr(found, part))
    with pytest.raises(RuntimeError, match="read from a file, which holds no network"):
        again.extend(3)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "pooled"])
def test_bases_of_every_map_extend(net, x, name):
    map = all_maps(model_of(net))[name]
    larger = pullback.basis(map, x, T, 2, quality="tight").extend(4)
    fresh = pullback.basis(map, x, T, 4, quality="tight")
    torch.testing.assert_close(larger.s, fresh.s, rtol=1e-6, atol=0)
    assert float(sine(larger.v, fresh.v.flatten(2)).max()) < 3e-4
    assert larger.provenance == fresh.provenance
