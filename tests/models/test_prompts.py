"""Prompts, encoded by the pipelines themselves."""

import inspect

import pytest
import torch
from diffusers import PixArtAlphaPipeline, PixArtSigmaPipeline

import pullback
from pullback import local_basis
from pullback.testing import leading, sine
from tests.models import by_hand, hub

PROMPTS = ["a cat", "the dog on a hill"]


def test_a_prompt_is_encoded_by_the_pipeline_itself(stock):
    pipeline = stock["stable_diffusion"]
    model = pullback.load(pipeline)
    cond = model.encode(prompt=PROMPTS)
    expected, negative = pipeline.encode_prompt(PROMPTS, "cpu", 1, True)
    assert list(cond) == ["encoder_hidden_states"]
    assert torch.equal(cond["encoder_hidden_states"], expected)
    assert not torch.allclose(expected[0], expected[1], atol=0.1)
    # What the pipeline guides away from by default is the null condition: the empty prompt.
    assert torch.equal(model.conditions.null["encoder_hidden_states"], negative[0])
    one = model.encode(prompt=PROMPTS[1])
    torch.testing.assert_close(one["encoder_hidden_states"], expected[1:])


def test_the_basis_depends_on_the_prompt_and_is_the_dense_one(stock):
    pipeline = stock["stable_diffusion"]
    model = pullback.load(pipeline)
    cond = model.encode(prompt=PROMPTS)
    x, t = torch.randn(1, *model.latent_shape).expand(2, -1, -1, -1), torch.tensor([600, 600])
    double = by_hand.in_float64(pipeline.unet)
    jacobians = []
    for sample in range(2):
        copies = by_hand.copies(cond, sample)
        read = by_hand.feature(double, "mid_block", None, t[:1].expand(by_hand.COPIES), copies)
        jacobians.append(by_hand.dense(read, by_hand.copies(x, sample)))
    jacobian = torch.stack(jacobians)
    rank = by_hand.rank_of(jacobian)
    found = local_basis(model, x, t, rank, cond=cond)
    _, s, v = leading(jacobian, rank)
    assert sine(found.v, v).max() <= 2e-3
    assert ((found.s - s).abs() <= 1e-4 * s).all()
    assert sine(found.v[:1], v[1:]).item() > 0.05  # the other prompt has another basis
    null = local_basis(model, x[:1], 600, rank, quality="draft")
    assert (null.s - found.s[:1]).abs().max() > 1e-3 * s.max()


def test_the_null_condition_of_sdxl_is_what_its_pipeline_guides_away_from(stock):
    pipeline = stock["stable_diffusion_xl"]
    assert pipeline.config.force_zeros_for_empty_prompt
    _, words, _, pooled = pipeline.encode_prompt(PROMPTS[0], do_classifier_free_guidance=True)
    null = pullback.load(pipeline).conditions.null
    assert torch.equal(null["encoder_hidden_states"], words[0])
    assert torch.equal(null["added_cond_kwargs.text_embeds"], pooled[0])
    assert not bool(pooled.any())
    assert bool(null["added_cond_kwargs.time_ids"].any())


def test_the_conditions_of_sdxl_are_those_of_its_pipeline(stock):
    """The U-Net is watched while the stock pipeline runs, and then while we call it."""
    pipeline = stock["stable_diffusion_xl"]
    model = pullback.load(pipeline)
    cond = model.encode(prompt=PROMPTS[0])
    assert set(cond) == {
        "encoder_hidden_states", "added_cond_kwargs.text_embeds", "added_cond_kwargs.time_ids",
    }  # fmt: skip
    seen = []
    handle = pipeline.unet.register_forward_hook(
        lambda _module, args, kwargs, output: seen.append((args, kwargs, output)), with_kwargs=True
    )
    try:
        pipeline.set_progress_bar_config(disable=True)
        pipeline(PROMPTS[0], num_inference_steps=1, guidance_scale=1.0, output_type="latent")
        (x, t), theirs, output = seen[0]
        with torch.no_grad():
            found = model.predict(x, int(t), cond)
    finally:
        handle.remove()
    ours = seen[-1][1]
    assert torch.equal(ours["encoder_hidden_states"], theirs["encoder_hidden_states"])
    for name in ("text_embeds", "time_ids"):
        mine, stock_one = (kwargs["added_cond_kwargs"][name] for kwargs in (ours, theirs))
        assert torch.equal(mine, stock_one), name
    torch.testing.assert_close(found, output[0])


#: A class of one's own derived from that of diffusers is called as that one is.
OWN_CLASS = pytest.mark.parametrize("own_class", [False, True])


def of_own_class(network, own_class):
    if own_class:
        network.__class__ = type("Mine", (type(network),), {})
    return network


@torch.no_grad()
@OWN_CLASS
def test_the_prompt_of_sd3(own_class, tmp_path):
    pipeline = hub.BUILDERS["Stable Diffusion 3"](tmp_path)
    of_own_class(pipeline.transformer, own_class)
    call = hub.call_of("Stable Diffusion 3")
    cond = pullback.load(pipeline, call=call).encode(prompt=PROMPTS)
    longest = {"max_sequence_length": call["max_sequence_length"]}
    words, _, pooled, _ = pipeline.encode_prompt(
        PROMPTS, None, None, do_classifier_free_guidance=False, **longest
    )
    assert set(cond) == {"encoder_hidden_states", "pooled_projections"}
    assert torch.equal(cond["encoder_hidden_states"], words)
    assert torch.equal(cond["pooled_projections"], pooled)


@torch.no_grad()
@OWN_CLASS
@pytest.mark.parametrize("distilled", [False, True])
def test_the_prompt_of_flux(distilled, own_class, tmp_path):
    name = "Flux dev" if distilled else "Flux"
    pipeline = hub.BUILDERS[name](tmp_path)
    of_own_class(pipeline.transformer, own_class)
    call = hub.call_of(name)
    model = pullback.load(pipeline, call=call)
    words, pooled, places = pipeline.encode_prompt(
        PROMPTS, None, max_sequence_length=call["max_sequence_length"]
    )
    for scale in (None, 2.5) if distilled else (None,):
        cond = model.encode(prompt=PROMPTS, guidance=scale)
        assert torch.equal(cond["encoder_hidden_states"], words)
        assert torch.equal(cond["pooled_projections"], pooled)
        assert torch.equal(cond["txt_ids"][0], places)
        assert ("guidance" in cond) is distilled
        if distilled:
            own = inspect.signature(pipeline.__call__).parameters["guidance_scale"].default
            assert cond["guidance"].tolist() == [own if scale is None else scale] * 2
    if not distilled:
        with pytest.raises(ValueError, match="takes no guidance scale"):
            model.encode(prompt=PROMPTS, guidance=2.5)
    with pytest.raises(ValueError, match="guidance"):
        model.encode(prompt=PROMPTS, guidance=torch.ones(2))
    # The places of the tokens are those of the pipeline where they are left out.
    x = torch.randn(1, *model.latent_shape)
    parts = {n: v[:1] for n, v in cond.items()}
    short = {n: v for n, v in parts.items() if n not in ("img_ids", "txt_ids")}
    found, expected = (model.predict(x, 500, model.conditions.of(one, 1)) for one in (short, parts))
    assert torch.equal(found, expected)


@torch.no_grad()
@OWN_CLASS
@pytest.mark.parametrize("kind", [PixArtAlphaPipeline, PixArtSigmaPipeline])
def test_the_prompt_of_pixart(kind, own_class, tmp_path):
    built = hub.BUILDERS["PixArt-Sigma"](tmp_path)
    call = hub.call_of("PixArt-Sigma")
    pipeline = kind(**built.components)
    of_own_class(pipeline.transformer, own_class)
    cond = pullback.load(pipeline, call=call).encode(prompt=PROMPTS)
    words, mask, _, _ = pipeline.encode_prompt(
        PROMPTS, do_classifier_free_guidance=False,
        max_sequence_length=call["max_sequence_length"],
    )  # fmt: skip
    assert set(cond) == {"encoder_hidden_states", "encoder_attention_mask"}
    assert torch.equal(cond["encoder_hidden_states"], words)
    assert torch.equal(cond["encoder_attention_mask"].to(mask), mask)


@pytest.mark.parametrize("prompt", [[], [3], None, {"a": 1}])
def test_what_is_no_prompt_is_refused(stock, prompt):
    with pytest.raises(ValueError, match=r"one prompt or several|either prompt= or class_label="):
        pullback.load(stock["stable_diffusion"]).encode(prompt=prompt)


def test_an_argument_that_the_pipeline_does_not_take_is_named(stock):
    with pytest.raises(ValueError, match="takes no ip_adapter_picture"):
        pullback.load(stock["stable_diffusion"]).encode(prompt="a cat", ip_adapter_picture=1)
