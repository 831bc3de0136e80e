"""Tiny, randomly initialised networks of every family, with conditions that they take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import (
    DDPMScheduler,
    DiTTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
    FluxTransformer2DModel,
    PixArtTransformer2DModel,
    SD3Transformer2DModel,
    UNet2DConditionModel,
    UNet2DModel,
)

from pullback import LatentModel

WORDS, WIDTH = 5, 32  # of a prompt's embedding


@dataclass(frozen=True)
class Tiny:
    """A family's tiny network.

    Attributes:
        build: makes the network.
        default: its default tap.
        taps: further taps to check, with which tensor of the module's output is meant.
        cond: draws a condition for a number of samples; None where there is none.
        flow: whether it is a flow model.
        latent_shape: where the network does not say.
        index: which tensor of the default tap's output is meant.
    """

    build: Callable[[], torch.nn.Module]
    default: str
    taps: tuple[tuple[str, int | None], ...]
    cond: Callable[[int], dict[str, Any]] | None = None
    flow: bool = False
    latent_shape: tuple[int, int, int] | None = None
    index: int | None = None

    def draw(self, count: int) -> dict[str, Any]:
        """A condition for a number of samples, empty where the network takes none."""
        return {} if self.cond is None else self.cond(count)


def words(count: int) -> torch.Tensor:
    return torch.randn(count, WORDS, WIDTH)


def unet() -> torch.nn.Module:
    return UNet2DModel(
        sample_size=8,
        in_channels=3,
        out_channels=3,
        block_out_channels=(16, 32),
        layers_per_block=1,
        norm_num_groups=8,
        attention_head_dim=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )


def condition_unet(**changes: Any) -> torch.nn.Module:
    settings: dict[str, Any] = {
        "sample_size": 8,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": (16, 32),
        "layers_per_block": 1,
        "norm_num_groups": 8,
        "attention_head_dim": 8,
        "cross_attention_dim": WIDTH,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    }
    return UNet2DConditionModel(**(settings | changes))


def sdxl() -> torch.nn.Module:
    return condition_unet(
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=6 * 4 + WIDTH,
        transformer_layers_per_block=(1, 2),
        use_linear_projection=True,
    )


#: Three blocks of two heads on patches of 2 x 2, with as many channels again for the variance.
_PATCHES: dict[str, Any] = {
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "in_channels": 4,
    "out_channels": 8,
    "num_layers": 3,
    "sample_size": 8,
    "patch_size": 2,
}


def dit() -> torch.nn.Module:
    return DiTTransformer2DModel(**_PATCHES, norm_num_groups=4, num_embeds_ada_norm=10)


def pixart() -> torch.nn.Module:
    return PixArtTransformer2DModel(
        **_PATCHES, cross_attention_dim=24, caption_channels=WIDTH, norm_type="ada_norm_single"
    )


def sd3() -> torch.nn.Module:
    return SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=3,
        attention_head_dim=8,
        num_attention_heads=3,
        joint_attention_dim=WIDTH,
        caption_projection_dim=24,
        pooled_projection_dim=WIDTH,
        pos_embed_max_size=8,
    )


def flux(guidance: bool = False) -> torch.nn.Module:
    return FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        axes_dims_rope=(4, 4, 8),
        guidance_embeds=guidance,
    )


def text(count: int) -> dict[str, Any]:
    return {"encoder_hidden_states": words(count)}


def text_and_sizes(count: int) -> dict[str, Any]:
    sizes = torch.tensor([64.0, 64, 0, 0, 64, 64]).expand(count, 6)
    return text(count) | {
        "added_cond_kwargs": {"text_embeds": torch.randn(count, WIDTH), "time_ids": sizes}
    }


def text_and_mask(count: int) -> dict[str, Any]:
    mask = torch.ones(count, WORDS)
    mask[:, -2:] = 0
    return text(count) | {"encoder_attention_mask": mask}


def text_and_pooled(count: int) -> dict[str, Any]:
    return text(count) | {"pooled_projections": torch.randn(count, WIDTH)}


TINY = {
    "UNet2DModel": Tiny(
        unet,
        "mid_block",
        (("down_blocks.0", 0), ("mid_block.resnets.0", None), ("up_blocks.0", None)),
    ),
    "UNet2DConditionModel": Tiny(
        condition_unet,
        "mid_block",
        (("down_blocks.0", 0), ("down_blocks.0.attentions.0", 0), ("up_blocks.1", None)),
        text,
    ),
    "UNet2DConditionModel, SDXL": Tiny(sdxl, "mid_block", (("down_blocks.1", 0),), text_and_sizes),
    "DiTTransformer2DModel": Tiny(
        dit,
        "transformer_blocks.1",
        (("transformer_blocks.2", None), ("transformer_blocks.0.ff", None)),
        lambda count: {"class_labels": torch.arange(count) % 10},
    ),
    "PixArtTransformer2DModel": Tiny(
        pixart, "transformer_blocks.1", (("transformer_blocks.0", None),), text_and_mask
    ),
    "SD3Transformer2DModel": Tiny(
        sd3,
        "transformer_blocks.1",
        (("transformer_blocks.0", 1), ("transformer_blocks.2", 1)),
        text_and_pooled,
        flow=True,
        index=1,
    ),
    "FluxTransformer2DModel": Tiny(
        flux,
        "single_transformer_blocks.0",
        (("transformer_blocks.0", 1), ("single_transformer_blocks.1", 1)),
        text_and_pooled,
        flow=True,
        latent_shape=(4, 8, 8),
        index=1,
    ),
}


def null_of(name: str, count: int) -> dict[str, Any]:
    """The null condition of a family for a number of samples, as its users know it.

    The class after the last for DiT; else zeros in place of a prompt.
    """
    if name == "DiTTransformer2DModel":
        return {"class_labels": torch.full((count,), 10)}
    cond = TINY[name].draw(count)
    for key in ("encoder_hidden_states", "pooled_projections"):
        if key in cond:
            cond[key] = torch.zeros_like(cond[key])
    if "added_cond_kwargs" in cond:
        cond["added_cond_kwargs"]["text_embeds"] = torch.zeros(count, WIDTH)
    return cond


def model_of(
    name: str, *, channels_last: bool = False, dtype: torch.dtype = torch.float32
) -> LatentModel:
    """The tiny model of a family: the same weights every time."""
    tiny = TINY[name]
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = tiny.build().eval().to(dtype)
        # Zero-initialised gates would cut the blocks off from one another.
        with torch.no_grad():
            for parameter in network.parameters():
                if not bool(parameter.any()):
                    parameter.normal_(std=0.05)
            # Blocks of fresh weights hardly bend the residual stream: the Jacobian would be that
            # of the patch embedding, with a flat spectrum in which no leading space is defined.
            for path, parameter in network.named_parameters():
                if "block" in path and parameter.dim() > 1:
                    parameter *= 2 if "UNet" in name else 3
    if channels_last:
        network = network.to(memory_format=torch.channels_last)
    scheduler = FlowMatchEulerDiscreteScheduler() if tiny.flow else DDPMScheduler()
    return LatentModel(network, scheduler, name=name, latent_shape=tiny.latent_shape)


def with_null(model: LatentModel, cond: dict[str, Any]) -> LatentModel:
    """The model with the condition of the first sample as its null condition."""
    null = {key: _first_row(value) for key, value in cond.items()}
    return LatentModel(
        model.network, model.schedule.scheduler, null_cond=null, latent_shape=model.latent_shape
    )


def _first_row(value: Any) -> Any:
    return {k: v[0] for k, v in value.items()} if isinstance(value, dict) else value[0]
