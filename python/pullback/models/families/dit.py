"""`DiTTransformer2DModel`: DiT."""

from __future__ import annotations

from typing import Any

import torch
from typing_extensions import override

from pullback.models.families.base import Argument
from pullback.models.families.transformer import Transformer


class DiT(Transformer):
    """`DiTTransformer2DModel`."""

    label = "DiT"

    @override
    def arguments(self, network: Any) -> dict[str, Argument]:
        # The class after the last stands for "no class".
        return {"class_labels": Argument(classes=network.config.num_embeds_ada_norm + 1)}

    @override
    def null(self, network: Any) -> dict[str, torch.Tensor]:
        return {"class_labels": torch.tensor(network.config.num_embeds_ada_norm, device="cpu")}
