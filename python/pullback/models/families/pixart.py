"""`PixArtTransformer2DModel`: PixArt-α and PixArt-Σ."""

from __future__ import annotations

from typing import Any

import torch
from typing_extensions import override

from pullback.models.families.base import WORDS, Argument, Flat, nested
from pullback.models.families.transformer import Transformer


class PixArt(Transformer):
    """`PixArtTransformer2DModel`: PixArt-α and PixArt-Σ."""

    label = "PixArt"

    @override
    def arguments(self, network: Any) -> dict[str, Argument]:
        size = Argument(needed=bool(network.use_additional_conditions))
        found = {"encoder_hidden_states": Argument(), "encoder_attention_mask": Argument(False)}
        if size.needed:
            found |= {f"added_cond_kwargs.{name}": size for name in ("resolution", "aspect_ratio")}
        return found

    @override
    def blank(self, network: Any) -> dict[str, torch.Tensor]:
        found = {
            "encoder_hidden_states": torch.zeros(
                WORDS, network.config.caption_channels, device="cpu"
            )
        }
        if network.use_additional_conditions:
            found["added_cond_kwargs.resolution"] = torch.zeros(2, device="cpu")
            found["added_cond_kwargs.aspect_ratio"] = torch.zeros(1, device="cpu")
        return found

    @override
    def call(self, network: Any, x: torch.Tensor, t: torch.Tensor, cond: Flat) -> Any:
        added = {"resolution": None, "aspect_ratio": None}
        arguments = {"added_cond_kwargs": added} | nested(cond)
        return network(x, timestep=t, **arguments).sample
