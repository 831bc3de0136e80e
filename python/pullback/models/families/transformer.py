"""What the transformers of diffusers have in common."""

from __future__ import annotations

from typing import Any

import torch
from typing_extensions import override

from pullback.models.families.base import WORDS, Family, Flat, nested


class Transformer(Family):
    """Blocks in a list, called with keyword arguments."""

    @override
    def call(self, network: Any, x: torch.Tensor, t: torch.Tensor, cond: Flat) -> Any:
        return network(x, timestep=t, **nested(cond)).sample

    @override
    def blocks(self, network: Any) -> list[str]:
        return [f"transformer_blocks.{i}" for i in range(len(network.transformer_blocks))]


def words_and_pooled(network: Any) -> dict[str, torch.Tensor]:
    """A blank prompt of a network that takes words and their pooled embedding, without batch."""
    config = network.config
    return {
        "encoder_hidden_states": torch.zeros(WORDS, config.joint_attention_dim, device="cpu"),
        "pooled_projections": torch.zeros(config.pooled_projection_dim, device="cpu"),
    }
