"""`UNet2DConditionModel`: Stable Diffusion 1, 2 and XL, and their relatives."""

from __future__ import annotations

from typing import Any

import torch
from typing_extensions import override

from pullback.models.families.base import WORDS, Argument, Flat, nested
from pullback.models.families.unet_blocks import AnyUNet


class ConditionUNet(AnyUNet):
    """`UNet2DConditionModel`: Stable Diffusion 1, 2 and XL, and their relatives."""

    label = "Stable Diffusion U-Net"

    @override
    def arguments(self, network: Any) -> dict[str, Argument]:
        config = network.config
        found = {
            "encoder_hidden_states": Argument(),
            "encoder_attention_mask": Argument(needed=False),
        }
        if config.time_cond_proj_dim is not None:  # distilled: the guidance scale, embedded
            found["timestep_cond"] = Argument()
        if network.class_embedding is not None:
            classes = config.num_class_embeds or 0 if config.class_embed_type is None else 0
            found["class_labels"] = Argument(classes=classes)
        added = {
            "text_time": ("text_embeds", "time_ids"),
            "text_image": ("image_embeds", "text_embeds"),
            "image": ("image_embeds",),
            "image_hint": ("image_embeds", "hint"),
        }.get(config.addition_embed_type, ())
        return found | {f"added_cond_kwargs.{name}": Argument() for name in added}

    @override
    def blank(self, network: Any) -> dict[str, torch.Tensor]:
        config = network.config
        width = config.encoder_hid_dim or config.cross_attention_dim
        width = width if isinstance(width, int) else width[0]  # one for each block
        found = {"encoder_hidden_states": torch.zeros(WORDS, width, device="cpu")}
        if config.time_cond_proj_dim is not None:
            found["timestep_cond"] = torch.zeros(config.time_cond_proj_dim, device="cpu")
        if network.class_embedding is not None:
            found["class_labels"] = torch.tensor(0, device="cpu")
        if config.addition_embed_type == "text_time":
            sizes = 6
            pooled = (
                config.projection_class_embeddings_input_dim
                - sizes * config.addition_time_embed_dim
            )
            found["added_cond_kwargs.text_embeds"] = torch.zeros(pooled, device="cpu")
            found["added_cond_kwargs.time_ids"] = torch.zeros(sizes, device="cpu")
        return found

    @override
    def call(self, network: Any, x: torch.Tensor, t: torch.Tensor, cond: Flat) -> Any:
        return network(x, t, **nested(cond)).sample
