"""Stock pipelines of tiny, randomly initialised parts, with text encoders that really encode."""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDPMPipeline,
    DDPMScheduler,
    DiTPipeline,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

from tests.models import families

WORDS = 12  # of a prompt, padding included
KINDS = ("ddpm", "dit", "stable_diffusion", "stable_diffusion_xl")


def tokenizer(folder: Path) -> CLIPTokenizer:
    """CLIP's tokenizer, over the alphabet and two words."""
    folder.mkdir(parents=True, exist_ok=True)
    merges = ["c a", "ca t</w>", "d o", "do g</w>"]
    end = "<|endoftext|>"
    letters = list(string.ascii_lowercase)
    joined = [merge.replace(" ", "") for merge in merges]
    words = [*letters, *(f"{one}</w>" for one in letters), *joined, "<|startoftext|>", end]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
    settings = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": WORDS,
        "unk_token": end,
        "pad_token": end,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return CLIPTokenizer.from_pretrained(str(folder))


def text_encoder(kind: Any = CLIPTextModel) -> torch.nn.Module:
    config = CLIPTextConfig(
        vocab_size=58,
        hidden_size=families.WIDTH,
        projection_dim=families.WIDTH,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=WORDS,
        bos_token_id=56,
        eos_token_id=57,
        pad_token_id=57,
    )
    encoder = kind(config).eval()
    with torch.no_grad():  # fresh ones are so small that prompts hardly differ
        for parameter in encoder.parameters():
            if parameter.dim() > 1:
                parameter *= 5
    return encoder


def autoencoder() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8,),
        norm_num_groups=4,
        latent_channels=4,
        down_block_types=("DownEncoderBlock2D",),
        up_block_types=("UpDecoderBlock2D",),
    ).eval()


def ddpm(_folder: Path) -> DDPMPipeline:
    return DDPMPipeline(families.model_of("UNet2DModel").network, DDPMScheduler())


def dit(_folder: Path) -> DiTPipeline:
    network = families.model_of("DiTTransformer2DModel").network
    return DiTPipeline(network, autoencoder(), DDPMScheduler())


def stable_diffusion(folder: Path) -> StableDiffusionPipeline:
    """As Stable Diffusion 1.5, without the safety checker."""
    return StableDiffusionPipeline(
        vae=autoencoder(),
        text_encoder=text_encoder(),
        tokenizer=tokenizer(folder),
        unet=families.model_of("UNet2DConditionModel").network,
        scheduler=PNDMScheduler(skip_prk_steps=True, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def stable_diffusion_xl(folder: Path) -> StableDiffusionXLPipeline:
    """As SDXL: two text encoders, whose words are joined, and a pooled one."""
    with torch.random.fork_rng():
        torch.manual_seed(4)
        network = families.condition_unet(
            cross_attention_dim=2 * families.WIDTH,
            addition_embed_type="text_time",
            addition_time_embed_dim=4,
            projection_class_embeddings_input_dim=6 * 4 + families.WIDTH,
        ).eval()
    return StableDiffusionXLPipeline(
        vae=autoencoder(),
        text_encoder=text_encoder(),
        text_encoder_2=text_encoder(CLIPTextModelWithProjection),
        tokenizer=tokenizer(folder),
        tokenizer_2=tokenizer(folder),
        unet=network,
        scheduler=PNDMScheduler(skip_prk_steps=True, steps_offset=1),
        add_watermarker=False,
    )
