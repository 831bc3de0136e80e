"""`FluxTransformer2DModel`: Flux."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import torch
from typing_extensions import override

from pullback.models.families.base import Argument, Flat, nested
from pullback.models.families.transformer import Transformer, words_and_pooled


class Flux(Transformer):
    """`FluxTransformer2DModel`. x is unpacked; patches of 2 × 2 are packed and unpacked here."""

    label = "Flux"
    flow = True
    # Its blocks, double and single, return the text stream first.
    feature_index = MappingProxyType({"FluxTransformerBlock": 1, "FluxSingleTransformerBlock": 1})

    @override
    def latent_shape(self, network: Any) -> tuple[int, ...]:
        raise ValueError(
            "A Flux transformer does not say how large its latents are. Pass latent_shape="
            f"({network.config.in_channels // 4}, H, W), H and W an eighth of the image's."
        )

    @override
    def check_shape(self, network: Any, shape: tuple[int, ...]) -> None:
        channels = network.config.in_channels // 4
        if len(shape) != 3 or shape[0] != channels or shape[1] % 2 or shape[2] % 2:
            raise ValueError(
                f"Expected latents of shape ({channels}, H, W) with even H and W for a Flux "
                f"transformer, got {shape}."
            )

    @override
    def arguments(self, network: Any) -> dict[str, Argument]:
        found = {"encoder_hidden_states": Argument(), "pooled_projections": Argument()}
        if network.config.guidance_embeds:
            found["guidance"] = Argument()
        return found

    @override
    def blank(self, network: Any) -> dict[str, torch.Tensor]:
        if not network.config.guidance_embeds:
            return words_and_pooled(network)
        return words_and_pooled(network) | {"guidance": torch.tensor(1.0, device="cpu")}

    @override
    def call(self, network: Any, x: torch.Tensor, t: torch.Tensor, cond: Flat) -> Any:
        batch, channels, height, width = x.shape
        rows, columns = height // 2, width // 2
        packed = x.reshape(batch, channels, rows, 2, columns, 2).permute(0, 2, 4, 1, 3, 5)
        places = torch.zeros(rows, columns, 3, device=x.device, dtype=x.dtype)
        places[..., 1] += torch.arange(rows, device=x.device)[:, None]
        places[..., 2] += torch.arange(columns, device=x.device)[None, :]
        words = cond["encoder_hidden_states"].shape[1]
        output = network(
            packed.reshape(batch, rows * columns, channels * 4),
            # Its unit is the share of noise, which it multiplies by 1000 itself.
            timestep=t / 1000,
            img_ids=places.reshape(rows * columns, 3),
            txt_ids=torch.zeros(words, 3, device=x.device, dtype=x.dtype),
            **nested(cond),
        ).sample
        tokens = output.reshape(batch, rows, columns, -1, 2, 2).permute(0, 3, 1, 4, 2, 5)
        return tokens.reshape(batch, -1, height, width)

    @override
    def blocks(self, network: Any) -> list[str]:
        single = range(len(network.single_transformer_blocks))
        return super().blocks(network) + [f"single_transformer_blocks.{i}" for i in single]
