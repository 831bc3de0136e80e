"""Bases, taps and predictions of every family against dense Jacobians and networks run by hand."""

import copy

import pytest
import torch
from diffusers import (
    DDPMScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    StableDiffusion3Pipeline,
)
from torch import nn

from pullback import LatentModel, basis, local_basis, maps
from pullback.testing import leading, sine
from tests.models import by_hand, families

FAMILIES = list(families.TINY)
TRANSFORMERS = ["SD3Transformer2DModel", "FluxTransformer2DModel"]
#: One of each kind: a U-Net that predicts noise, a transformer that predicts velocity.
BOTH = ["UNet2DConditionModel", "SD3Transformer2DModel"]


def check(found, jacobian, rank=None):
    """Compare a basis with the leading singular triplets of dense Jacobians."""
    rank = found.s.shape[1] if rank is None else rank
    _, s, v = leading(jacobian, rank)
    assert found.v.shape[:2] == v.shape[:2]
    assert sine(found.v, v).max() <= 2e-3
    assert ((found.s - s).abs() <= 1e-4 * s).all()


def rank_of(jacobian):
    return by_hand.picked(torch.linalg.svdvals(jacobian))


def taps_of(name):
    tiny = families.TINY[name]
    return [(tiny.default, tiny.index), *tiny.taps]


# ------------------------------------------------------------------------------- encoder bases


def with_null(name, **options):
    """The tiny model of a family; where its class has no null condition, zeros stand for it."""
    model = families.model_of(name, **options)
    if model.family.null(model.network) is not None:
        return model
    null = {key: first_row(value) for key, value in families.null_of(name, 1).items()}
    return LatentModel(
        model.network, model.schedule.scheduler, null_cond=null, latent_shape=model.latent_shape
    )


def first_row(value):
    return {k: v[0] for k, v in value.items()} if isinstance(value, dict) else value[0]


@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels-last"])
@pytest.mark.parametrize("null", [False, True], ids=["condition", "null"])
@pytest.mark.parametrize("name", FAMILIES)
def test_the_default_basis_is_that_of_the_dense_jacobian(name, null, channels_last):
    case = by_hand.case(name, null)
    jacobian = case.encoder(case.tiny.default, case.tiny.index)
    model, x = with_null(name, channels_last=channels_last), case.x
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
        assert not x.is_contiguous()
        # Flux has no convolutions; in the others they now have the other layout.
        assert name.startswith("Flux") or any(
            not p.is_contiguous() for p in model.network.parameters()
        )
    given = None if null else case.cond or None
    check(local_basis(model, x, case.t, rank_of(jacobian), cond=given), jacobian)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_basis_at_another_tap_is_that_of_the_dense_jacobian(name):
    case = by_hand.case(name)
    path, index = case.tiny.taps[0]
    jacobian = case.encoder(path, index)
    found = local_basis(
        families.model_of(name), case.x, case.t, rank_of(jacobian), path, case.cond or None
    )
    check(found, jacobian)
    assert found.provenance["tap"] == path


# -------------------------------------------------------------------------- values at the taps


@pytest.mark.parametrize(
    ("name", "path", "index"), [(name, *tap) for name in FAMILIES for tap in taps_of(name)]
)
def test_a_tap_reads_what_a_hook_by_hand_reads(name, path, index):
    case, model = by_hand.case(name), families.model_of(name)
    with torch.no_grad():
        expected = by_hand.feature(model.network, path, index, case.t, case.cond)(case.x)
    value = maps.encoder(model, path).at(case.x, case.t, case.cond or None).value()
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-5)
    if index is not None:  # saying which tensor it is changes nothing
        said = maps.encoder(model, (path, index)).at(case.x, case.t, case.cond or None).value()
        assert torch.equal(said, value)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_default_tap_is_the_one_of_the_table(name):
    assert families.model_of(name).default_tap == families.TINY[name].default


@pytest.mark.parametrize("name", FAMILIES)
def test_the_prediction_is_that_of_a_call_by_hand(name):
    case, model = by_hand.case(name), families.model_of(name)
    with torch.no_grad():
        expected = by_hand.call(model.network, case.x, case.t, case.cond)
    cond = model.conditions.of(case.cond or None, len(case.x))
    with torch.no_grad():
        found = model.call(case.x, case.t, cond)
    assert found.shape == case.x.shape
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def stock_sd3(network, latents, cond, sigmas):
    pipeline = StableDiffusion3Pipeline(
        network, FlowMatchEulerDiscreteScheduler(), None, None, None, None, None, None, None
    )
    pipeline.set_progress_bar_config(disable=True)
    pipeline(
        prompt_embeds=cond["encoder_hidden_states"],
        pooled_prompt_embeds=cond["pooled_projections"],
        latents=latents,
        height=64,
        width=64,
        sigmas=sigmas,
        guidance_scale=1.0,
        output_type="latent",
    )


def stock_flux(network, latents, cond, sigmas):
    pipeline = FluxPipeline(
        FlowMatchEulerDiscreteScheduler(), None, None, None, None, None, network
    )
    pipeline.set_progress_bar_config(disable=True)
    pipeline(
        prompt_embeds=cond["encoder_hidden_states"],
        pooled_prompt_embeds=cond["pooled_projections"],
        latents=FluxPipeline._pack_latents(latents, *latents.shape),
        height=64,
        width=64,
        sigmas=sigmas,
        guidance_scale=2.5,
        output_type="latent",
    )


def inputs_and_outputs(network):
    """Every call of the network from now on: keyword arguments, and what came back."""
    seen = []
    network.register_forward_hook(
        lambda _module, _args, kwargs, output: seen.append((kwargs, output)), with_kwargs=True
    )
    return seen


def equal_calls(ours, theirs):
    """Whether two calls gave a network the same arguments, where both give one."""
    shared = [key for key, value in ours.items() if isinstance(value, torch.Tensor)]
    for key in shared:
        torch.testing.assert_close(ours[key], theirs[key].to(ours[key].dtype), rtol=1e-6, atol=0)
    return set(shared)


def test_sd3_is_called_as_its_stock_pipeline_calls_it():
    model = families.model_of("SD3Transformer2DModel")
    x, cond = torch.randn(2, *model.latent_shape), families.text_and_pooled(2)
    seen = inputs_and_outputs(model.network)
    stock_sd3(model.network, x, cond, [0.7, 0.3])
    (theirs, output), _ = seen
    with torch.no_grad():
        found = model.predict(x, 700, model.conditions.of(cond, 2))
    torch.testing.assert_close(found, output[0])
    assert equal_calls(seen[-1][0], theirs) >= {
        "timestep", "encoder_hidden_states", "pooled_projections",
    }  # fmt: skip


@pytest.mark.parametrize("distilled", [False, True], ids=["schnell", "guidance-distilled"])
def test_flux_is_called_as_its_stock_pipeline_calls_it(distilled):
    network = families.flux(guidance=distilled).eval()
    model = LatentModel(network, FlowMatchEulerDiscreteScheduler(), latent_shape=(4, 8, 8))
    x, cond = torch.randn(2, *model.latent_shape), families.text_and_pooled(2)
    seen = inputs_and_outputs(network)
    stock_flux(network, x, cond, [0.7, 0.3])
    (theirs, output), _ = seen
    if distilled:
        cond["guidance"] = torch.full((2,), 2.5)
    with torch.no_grad():
        found = model.predict(x, 700, model.conditions.of(cond, 2))
    # Sizes in pixels, eight for one of the latent.
    torch.testing.assert_close(found, FluxPipeline._unpack_latents(output[0], 64, 64, 8))
    compared = equal_calls(seen[-1][0], theirs)
    assert compared >= {"timestep", "img_ids", "txt_ids", "pooled_projections"}
    assert ("guidance" in compared) is distilled


# ------------------------------------------------------------------- maps on two families, dense


def noise_by_hand(case, model):
    """(a, b, sigma), [B, 1, 1] each: noise = a x + b prediction; sigma is how much there is."""
    t = case.t.view(-1, 1, 1)
    if case.tiny.flow:
        return torch.ones(()), 1 - t.double() / 1000, t.double() / 1000
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    return torch.zeros(()), torch.ones(()), (1 - (1 - betas).cumprod(0)[t]).sqrt()


@pytest.mark.parametrize("kind", ["noise", "denoised", "score"])
@pytest.mark.parametrize("name", BOTH)
def test_output_bases(name, kind):
    case, model = by_hand.case(name), families.model_of(name)
    a, b, sigma = noise_by_hand(case, model)
    signal = 1 - sigma if case.tiny.flow else (1 - sigma.square()).sqrt()
    identity = torch.eye(case.x[0].numel(), dtype=torch.float64)
    noise = a * identity + b * case.prediction()
    jacobian = {
        "noise": noise,
        "denoised": (identity - sigma * noise) / signal,  # x = signal x̂₀ + sigma ε
        "score": -noise / sigma,
    }[kind]
    found = basis(
        maps.output(model, kind), case.x, case.t, rank_of(jacobian), case.cond, max_products=2000
    )
    check(found, jacobian)


@pytest.mark.parametrize("name", BOTH)
def test_masked_bases(name):
    case, model = by_hand.case(name), families.model_of(name)
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[1:4, 2:7] = True
    a, b, _ = noise_by_hand(case, model)
    identity = torch.eye(case.x[0].numel(), dtype=torch.float64)
    noise = (a * identity + b * case.prediction()).unflatten(1, (4, 8, 8))
    jacobian = noise[:, :, 1:4, 2:7].flatten(1, 3)
    assert jacobian.shape[1] == 4 * 3 * 5
    region = maps.output(model, "noise").restrict(mask)
    check(basis(region, case.x, case.t, rank_of(jacobian), case.cond), jacobian)


@pytest.mark.parametrize("name", BOTH)
def test_decoder_bases(name):
    """H is replaced by an ordinary hook; all else, skip connections too, is computed from x."""
    case, model = by_hand.case(name), families.model_of(name)
    path, index = case.tiny.default, case.tiny.index

    def make(x, t, cond):
        return by_hand.replaced(case.network64, path, index, x, t, cond)

    def point(x, t, cond):
        with torch.no_grad():
            return by_hand.feature(case.network64, path, index, t, cond)(x)

    _, b, _ = noise_by_hand(case, model)
    jacobian = b * case.jacobian(make, point)
    decoder = maps.decoder(model, path)
    found = basis(decoder, case.x, case.t, rank_of(jacobian), case.cond, max_products=2000)
    check(found, jacobian)
    assert found.v.shape[2:] == decoder.at(case.x, case.t, case.cond).point.shape[1:]


@pytest.mark.parametrize("name", BOTH)
def test_pooled_bases(name):
    case, model = by_hand.case(name), families.model_of(name)
    path, index = case.tiny.default, case.tiny.index

    def make(x, t, cond):
        read = by_hand.feature(case.network64, path, index, t, cond)
        # Space is the last two of [B, C, H, W] and the second of [B, tokens, C].
        return lambda x: read(x).mean((2, 3) if path == "mid_block" else 1)

    jacobian = case.jacobian(make)
    rank = rank_of(jacobian)
    found = local_basis(model, case.x, case.t, rank, cond=case.cond, pool="space")
    check(found, jacobian)
    assert found.u.shape == (2, rank, 32 if path == "mid_block" else 24)


@pytest.mark.parametrize("name", BOTH)
def test_bases_of_the_prompt(name):
    case, model = by_hand.case(name), families.model_of(name)
    path, index = case.tiny.default, case.tiny.index

    def make(x, t, cond):
        return lambda words: by_hand.feature(
            case.network64, path, index, t, {**cond, "encoder_hidden_states": words}
        )(x)

    jacobian = case.jacobian(make, lambda _x, _t, cond: cond["encoder_hidden_states"])
    rank = rank_of(jacobian)
    found = basis(maps.encoder(model, wrt="prompt"), case.x, case.t, rank, case.cond)
    check(found, jacobian)
    assert found.v.shape == (2, rank, families.WORDS, families.WIDTH)


def test_a_basis_with_guidance():
    name = "UNet2DConditionModel"
    case, model = by_hand.case(name), families.model_of(name)
    negative = families.text(1)
    words = by_hand.copies(negative, 0)

    away = case.jacobian(lambda _, t, _cond: lambda x: by_hand.call(case.network64, x, t, words))
    jacobian = 7.5 * case.prediction() - 6.5 * away
    guided = maps.output(model, "noise", guidance=7.5, negative=negative)
    found = basis(guided, case.x, case.t, rank_of(jacobian), case.cond, max_products=2000)
    check(found, jacobian)


# ------------------------------------------------------------------------- the text stream trap


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_every_block_of_two_streams_is_read_as_the_image(name):
    case, model = by_hand.case(name), families.model_of(name)
    tokens = 4 * 4  # of patches of 2 x 2; the prompt has another number
    assert tokens != families.WORDS
    assert {
        tap.path: tap.shape[0] for tap in with_cond_as_null(model, case).taps()
    } == dict.fromkeys(model.blocks(), tokens)
    for path in [None, *model.blocks()]:
        value = maps.encoder(model, path).at(case.x, case.t, case.cond).value()
        moved = maps.encoder(model, path).at(case.x + 0.1, case.t, case.cond).value()
        assert value.shape[1] == tokens, path
        # Image tokens start from x: each of them moves.
        assert ((moved - value).abs().amax(2) > 0).all(), path


def with_cond_as_null(model, case):
    """The model with a null condition, which listing the taps runs the network with."""
    null = {key: value[0] for key, value in case.cond.items()}
    return LatentModel(
        model.network, model.schedule.scheduler, null_cond=null, latent_shape=model.latent_shape
    )


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("SD3Transformer2DModel", "transformer_blocks.1"),
        ("FluxTransformer2DModel", "transformer_blocks.0"),
        ("FluxTransformer2DModel", "single_transformer_blocks.0"),
    ],
)
def test_the_text_stream_would_give_another_basis(name, path):
    """It moves with x as well, so no check of the products could tell."""
    case, model = by_hand.case(name), families.model_of(name)
    image = local_basis(model, case.x, case.t, 3, path, case.cond, quality="draft")
    same = local_basis(model, case.x, case.t, 3, (path, 1), case.cond, quality="draft")
    text = local_basis(model, case.x, case.t, 3, (path, 0), case.cond, quality="draft")
    assert torch.equal(same.v, image.v)
    assert text.u.shape[2] == families.WORDS
    assert text.u.shape != image.u.shape
    assert (text.s > 0).all()
    assert sine(text.v, torch.linalg.qr(image.v.double().flatten(2).mT).Q.mT).min() > 0.3


def test_the_last_block_of_sd3_has_no_text_stream_to_read():
    case = by_hand.case("SD3Transformer2DModel")
    model = families.model_of("SD3Transformer2DModel")
    bound = maps.encoder(model, ("transformer_blocks.2", 0)).at(case.x, case.t, case.cond)
    with pytest.raises(TypeError, match="NoneType at index 0, not a tensor"):
        bound.value()


class TwoStreams(nn.Module):
    """A block that is in no table: text first, then the image."""

    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(12, 12)

    def forward(self, text, image):
        mixed = torch.tanh(self.mix(image))
        return text + mixed.mean(1, keepdim=True), image + mixed


class Unknown(nn.Module):
    """A network of a user's own with such a block."""

    def __init__(self):
        super().__init__()
        self.block = TwoStreams()

    def forward(self, x, t, words):
        image = x.flatten(2).mT * (1 + t.view(-1, 1, 1) / 1000)
        _, image = self.block(words, image)
        return image.mT.reshape(x.shape)


def test_an_unknown_block_with_several_outputs_asks_which():
    network = Unknown().eval()
    model = LatentModel(network, DDPMScheduler(), latent_shape=(12, 2, 2))
    x, cond = torch.randn(1, 12, 2, 2), {"words": torch.randn(1, 3, 12)}
    with pytest.raises(TypeError, match=r"TwoStreams.*tap=\('block', index\)"):
        local_basis(model, x, 500, 2, "block", cond)
    found = local_basis(model, x, 500, 2, ("block", 1), cond)
    double = copy.deepcopy(network).double()

    def f(x):
        image = x.flatten(2).mT * 1.5
        return image + torch.tanh(double.block.mix(image))

    jacobian = by_hand.dense(f, x.expand(by_hand.COPIES, -1, -1, -1))[None]
    check(found, jacobian)
    assert found.provenance["tap"] == "block:1"


def test_a_block_of_a_users_own_in_a_known_network_asks_which():
    model = families.model_of("SD3Transformer2DModel")
    case = by_hand.case("SD3Transformer2DModel")
    block = model.network.transformer_blocks[1]
    block.__class__ = type("MyBlock", (type(block),), {})
    with pytest.raises(TypeError, match=r"MyBlock.*tap=\('transformer_blocks.1', index\)"):
        local_basis(model, case.x, case.t, 2, None, case.cond)
    found = local_basis(
        model, case.x, case.t, 2, ("transformer_blocks.1", 1), case.cond, quality="draft"
    )
    stock = families.model_of("SD3Transformer2DModel")
    expected = local_basis(stock, case.x, case.t, 2, None, case.cond, quality="draft")
    assert torch.equal(found.v, expected.v)
