"""`SD3Transformer2DModel`: Stable Diffusion 3 and 3.5."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import torch
from typing_extensions import override

from pullback.models.families.base import Argument, encoded
from pullback.models.families.transformer import Transformer, words_and_pooled


class SD3(Transformer):
    """`SD3Transformer2DModel`: Stable Diffusion 3 and 3.5."""

    label = "Stable Diffusion 3"
    flow = True
    # Its blocks return the text stream first.
    feature_index = MappingProxyType({"JointTransformerBlock": 1})

    @override
    def arguments(self, network: Any) -> dict[str, Argument]:
        return {"encoder_hidden_states": Argument(), "pooled_projections": Argument()}

    @override
    def blank(self, network: Any) -> dict[str, torch.Tensor]:
        return words_and_pooled(network)

    @override
    def encode(
        self, pipeline: Any, network: Any, prompts: list[str], guidance: float
    ) -> dict[str, torch.Tensor]:
        words, _, pooled, _ = encoded(pipeline, prompts, None, None)
        return {"encoder_hidden_states": words, "pooled_projections": pooled}
