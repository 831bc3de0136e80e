"""Tiny pipelines whose schedulers tell the network another time than whole timesteps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AnimateDiffPipeline,
    CMStochasticIterativeScheduler,
    ConsistencyModelPipeline,
    DDIMScheduler,
    DDPMWuerstchenScheduler,
    DiffusionPipeline,
    EDMDPMSolverMultistepScheduler,
    EDMEulerScheduler,
    MotionAdapter,
    StableCascadeDecoderPipeline,
    StableCascadePriorPipeline,
    StableCascadeUNet,
    StableDiffusionXLPipeline,
    UNetMotionModel,
)
from diffusers.pipelines.deprecated.wuerstchen import PaellaVQModel
from transformers import CLIPTextModelWithProjection

from tests.models import families
from tests.models.hub_more import (
    XL,
    lively,
    picture,
    seeded,
    stable_diffusion_parts,
    unet,
)
from tests.models.pipelines import autoencoder, text_encoder, tokenizer

CALL: dict[str, dict[str, Any]] = {}


def _xl(folder: Path, scheduler: Any) -> DiffusionPipeline:
    with seeded():
        return StableDiffusionXLPipeline(
            vae=autoencoder(),
            text_encoder=text_encoder(),
            text_encoder_2=text_encoder(CLIPTextModelWithProjection),
            tokenizer=tokenizer(folder),
            tokenizer_2=tokenizer(folder),
            unet=unet(**XL),
            scheduler=scheduler,
            add_watermarker=False,
        )


def playground(folder: Path) -> DiffusionPipeline:
    """As Playground 2.5: SDXL, preconditioned as in EDM."""
    return _xl(folder, EDMDPMSolverMultistepScheduler())


def cos_xl(folder: Path) -> DiffusionPipeline:
    """As CosXL: SDXL that predicts velocities, told the logarithm of σ."""
    return _xl(
        folder,
        EDMEulerScheduler(
            sigma_max=120.0,
            sigma_data=1.0,
            sigma_schedule="exponential",
            prediction_type="v_prediction",
        ),
    )


def _cascade_network(**settings: Any) -> torch.nn.Module:
    return lively(
        StableCascadeUNet(
            timestep_ratio_embedding_dim=8,
            conditioning_dim=families.WIDTH,
            block_out_channels=(16, 16),
            num_attention_heads=(2, 2),
            down_num_layers_per_block=(1, 1),
            up_num_layers_per_block=(1, 1),
            clip_text_pooled_in_channels=families.WIDTH,
            clip_seq=2,
            switch_level=(False,),
            **settings,
        ),
        factor=1.5,
    )


def cascade_prior(folder: Path) -> DiffusionPipeline:
    """As Stable Cascade's stage C, which makes embeddings of an image."""
    with seeded():
        return StableCascadePriorPipeline(
            tokenizer=tokenizer(folder),
            text_encoder=text_encoder(CLIPTextModelWithProjection),
            prior=_cascade_network(
                in_channels=4,
                out_channels=4,
                clip_text_in_channels=families.WIDTH,
                clip_image_in_channels=families.WIDTH,
            ),
            scheduler=DDPMWuerstchenScheduler(),
        )


def cascade_decoder(folder: Path) -> DiffusionPipeline:
    """As Stable Cascade's stage B, which makes latents of those embeddings."""
    with seeded():
        return StableCascadeDecoderPipeline(
            decoder=_cascade_network(in_channels=4, out_channels=4, effnet_in_channels=3),
            tokenizer=tokenizer(folder),
            text_encoder=text_encoder(CLIPTextModelWithProjection),
            scheduler=DDPMWuerstchenScheduler(),
            vqgan=PaellaVQModel(bottleneck_blocks=1, embed_dim=8, num_vq_embeddings=8).eval(),
        )


def animate_diff(folder: Path) -> DiffusionPipeline:
    """As AnimateDiff: Stable Diffusion with layers between frames, which are rows inside it."""
    with seeded():
        parts = stable_diffusion_parts(folder, down_block_types=_DOWN, up_block_types=_UP)
        motion = MotionAdapter(
            block_out_channels=parts["unet"].config.block_out_channels,
            motion_layers_per_block=1,
            motion_norm_num_groups=4,
            motion_num_attention_heads=2,
        )
        network = UNetMotionModel.from_unet2d(parts["unet"], lively(motion))
        parts |= {"unet": lively(network, 1), "scheduler": DDIMScheduler(clip_sample=False)}
        unwanted = ("safety_checker", "requires_safety_checker")
        parts = {name: part for name, part in parts.items() if name not in unwanted}
        return AnimateDiffPipeline(motion_adapter=motion, **parts)


_DOWN = ("CrossAttnDownBlock2D", "DownBlock2D")
_UP = ("UpBlock2D", "CrossAttnUpBlock2D")


def consistency(_folder: Path) -> DiffusionPipeline:
    """A consistency model, which predicts the end of its way from anywhere on it."""
    network = families.model_of("UNet2DModel").network
    return ConsistencyModelPipeline(network, CMStochasticIterativeScheduler())


_SIZE = {"height": 8, "width": 8}
CALL["cascade_prior"] = {"height": 342, "width": 342}  # 8 x 8 embeddings
CALL["cascade_decoder"] = {"image_embeddings": picture()[:, :, :1, :1]}  # 10 x 10 latents
CALL["animate_diff"] = _SIZE | {"num_frames": 2}

BUILDERS: dict[str, Callable[[Path], DiffusionPipeline]] = {
    "Playground 2.5": playground,
    "CosXL": cos_xl,
    "Stable Cascade, prior": cascade_prior,
    "Stable Cascade, decoder": cascade_decoder,
    "AnimateDiff": animate_diff,
    "Consistency model": consistency,
}
