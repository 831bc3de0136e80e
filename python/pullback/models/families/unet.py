"""`UNet2DModel`: DDPM, and LDM without text."""

from __future__ import annotations

from typing import Any

import torch
from typing_extensions import override

from pullback.models.families.base import Argument, Flat, nested
from pullback.models.families.unet_blocks import AnyUNet


class UNet(AnyUNet):
    """`UNet2DModel`: DDPM, LDM without text."""

    label = "DDPM U-Net"

    @override
    def arguments(self, network: Any) -> dict[str, Argument]:
        if network.class_embedding is None:
            return {}
        return {"class_labels": Argument(classes=network.config.num_class_embeds or 0)}

    @override
    def blank(self, network: Any) -> dict[str, torch.Tensor]:
        if network.class_embedding is None:
            return {}
        return {"class_labels": torch.tensor(0, device="cpu")}

    @override
    def call(self, network: Any, x: torch.Tensor, t: torch.Tensor, cond: Flat) -> Any:
        return network(x, t, **nested(cond)).sample
