"""`SD3Transformer2DModel`: Stable Diffusion 3 and 3.5."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import torch
from typing_extensions import override

from pullback.models.families.base import Argument
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
