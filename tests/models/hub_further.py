"""Further stock pipelines, tiny and random: those that edit images, and less common networks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    DiffusionPipeline,
    FluxControlNetModel,
    FluxControlNetPipeline,
    FluxFillPipeline,
    FluxKontextPipeline,
    FluxTransformer2DModel,
)

from tests.models import pipelines
from tests.models.families import WIDTH
from tests.models.hub_more import picture
from tests.models.hub_transformers import END, autoencoder, clip, flow, random, t5, tokenizer

#: Keyword arguments that a call needs, by the name of the builder.
CALL: dict[str, dict[str, Any]] = {}

_FLUX: dict[str, Any] = {
    "patch_size": 1,
    "in_channels": 16,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": WIDTH,
    "pooled_projection_dim": WIDTH,
    "axes_dims_rope": (4, 4, 8),
}
#: A call for a small image.
_SMALL: dict[str, Any] = {"height": 8, "width": 8, "max_sequence_length": 12}


def flux_network(**settings: Any) -> FluxTransformer2DModel:
    """Flux' network, distilled with guidance."""
    sizes = {"num_layers": 1, "num_single_layers": 2, "guidance_embeds": True}
    return random(lambda: FluxTransformer2DModel(**_FLUX | sizes | settings), only="blocks")


def flux_parts(folder: Path) -> dict[str, Any]:
    """The parts of Flux, but for its network."""
    return {
        "scheduler": flow(),
        "vae": autoencoder(),
        "text_encoder": clip(),
        "tokenizer": pipelines.tokenizer(folder),
        "text_encoder_2": t5(),
        "tokenizer_2": tokenizer(after=END),
    }


CALL["flux_kontext"] = _SMALL | {
    # Wider than what is made of it: fewer of its tokens are latents than are the condition.
    "image": torch.cat([picture(), picture(1)], 3),
    "max_area": 64,
    "_auto_resize": False,
}


def flux_kontext(folder: Path) -> FluxKontextPipeline:
    """As Flux Kontext: the tokens of an image stand beside those of the latents."""
    return FluxKontextPipeline(**flux_parts(folder), transformer=flux_network())


CALL["flux_fill"] = _SMALL | {"image": picture(), "mask_image": picture(1, 1).round()}


def flux_fill(folder: Path) -> FluxFillPipeline:
    """As Flux Fill: an image and a mask stand in further channels of each token."""
    network = flux_network(in_channels=36, out_channels=16)
    return FluxFillPipeline(**flux_parts(folder), transformer=network)


CALL["flux_controlnet"] = _SMALL | {"control_image": picture()}


def flux_controlnet(folder: Path) -> FluxControlNetPipeline:
    """Flux with a ControlNet."""
    sizes = {"num_layers": 1, "num_single_layers": 1, "guidance_embeds": True}
    helper = random(lambda: FluxControlNetModel(**_FLUX | sizes), only="blocks")
    network = flux_network()
    return FluxControlNetPipeline(**flux_parts(folder), transformer=network, controlnet=helper)


BUILDERS: dict[str, Callable[[Path], DiffusionPipeline]] = {
    "Flux Kontext": flux_kontext,
    "Flux Fill": flux_fill,
    "Flux, ControlNet": flux_controlnet,
}
