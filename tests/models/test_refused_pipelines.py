"""Pipelines of the hub that cannot be read, and what they are told."""

import pytest
from diffusers import (
    AmusedPipeline,
    AmusedScheduler,
    DanceDiffusionPipeline,
    IPNDMScheduler,
    OmniGenPipeline,
    OmniGenTransformer2DModel,
    UNet1DModel,
    UVit2DModel,
    VQModel,
)
from diffusers.pipelines.omnigen import pipeline_omnigen
from diffusers.pipelines.omnigen.processor_omnigen import (
    OmniGenCollator,
    OmniGenMultiModalProcessor,
)
from transformers import CLIPTextModelWithProjection

import pullback
from tests.models import hub, pipelines
from tests.models.families import WIDTH
from tests.models.hub_transformers import autoencoder, flow, random, tokenizer


def test_sound_whose_scheduler_states_no_noise(tmp_path):
    """DanceDiffusion, in one dimension."""
    network = UNet1DModel(
        block_out_channels=(16, 16, 16),
        sample_size=256,
        down_block_types=("DownBlock1DNoSkip", "DownBlock1D", "AttnDownBlock1D"),
        up_block_types=("AttnUpBlock1D", "UpBlock1D", "UpBlock1DNoSkip"),
    )
    pipeline = DanceDiffusionPipeline(network.eval(), IPNDMScheduler())
    with pytest.raises(ValueError, match="IPNDMScheduler is not known to say how much noise"):
        pullback.load(pipeline)


def test_a_network_over_discrete_tokens(tmp_path):
    """aMUSEd's U-ViT, which fills in masked tokens: there are no latents to differentiate by."""
    network = UVit2DModel(
        hidden_size=32,
        cond_embed_dim=WIDTH,
        micro_cond_encode_dim=4,
        micro_cond_embed_dim=20,
        encoder_hidden_size=WIDTH,
        vocab_size=32,
        codebook_size=16,
        in_channels=32,
        block_out_channels=32,
        num_res_blocks=1,
        block_num_heads=2,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        sample_size=8,
    )
    pipeline = AmusedPipeline(
        vqvae=VQModel(block_out_channels=(8,), norm_num_groups=4).eval(),
        tokenizer=pipelines.tokenizer(tmp_path),
        text_encoder=pipelines.text_encoder(CLIPTextModelWithProjection),
        transformer=network.eval(),
        scheduler=AmusedScheduler(mask_token_id=31),
    )
    with pytest.raises(ValueError, match="AmusedScheduler is not known to say how much noise"):
        pullback.load(pipeline)


class _Texts(OmniGenMultiModalProcessor):
    """OmniGen's processor without its part for images, which asks for torchvision."""

    def __init__(self, text_tokenizer, max_image_size=1024):
        self.text_tokenizer, self.max_image_size = text_tokenizer, max_image_size
        self.collator = OmniGenCollator()


def test_guidance_that_cannot_be_switched_off(monkeypatch):
    """OmniGen's call runs with the prompt and without it in one pass, whatever the scale."""
    monkeypatch.setattr(pipeline_omnigen, "OmniGenMultiModalProcessor", _Texts, raising=False)
    network = random(
        lambda: OmniGenTransformer2DModel(
            hidden_size=16,
            num_attention_heads=2,
            num_key_value_heads=2,
            intermediate_size=32,
            num_layers=2,
            pad_token_id=0,
            vocab_size=96,
            time_step_dim=16,
            rope_scaling={"long_factor": [1] * 4, "short_factor": [1] * 4},
        )
    )
    pipeline = OmniGenPipeline(network, flow(), autoencoder(3), tokenizer())
    call = {"height": 64, "width": 64}
    with pytest.raises(ValueError, match=r"2 rows of latents for one sample.*guidance_scale=1"):
        pullback.load(pipeline, call=call)


def test_a_package_that_the_pipeline_needs_is_named(tmp_path, monkeypatch):
    """Diffusers imports some where they are there, and stumbles over their names else."""
    pipeline = hub.BUILDERS["Lumina 2"](tmp_path)

    def broken(*_args, **_kwargs):
        return ftfy_of_nobody  # noqa: F821

    monkeypatch.setattr(type(pipeline), "encode_prompt", broken)
    with pytest.raises(ValueError, match="pip install ftfy_of_nobody"):
        pullback.load(pipeline)
