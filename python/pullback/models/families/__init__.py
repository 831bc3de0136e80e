"""What differs between the networks of diffusers: one file, and one `Family`, per network class.

The network itself runs untouched: a family turns x, t and the condition into the arguments that its
forward pass takes, and the output into a prediction in the shape of x.
"""

from __future__ import annotations

from typing import Any

from diffusers import (
    DiTTransformer2DModel,
    FluxTransformer2DModel,
    PixArtTransformer2DModel,
    SD3Transformer2DModel,
    UNet2DConditionModel,
    UNet2DModel,
)
from torch import nn

from pullback.models.families.base import Argument, Family, Flat, flat, nested
from pullback.models.families.blocks import BLOCKS, Blocks, blocks_of
from pullback.models.families.condition_unet import ConditionUNet
from pullback.models.families.custom import Custom
from pullback.models.families.dit import DiT
from pullback.models.families.flux import Flux
from pullback.models.families.observed import Observed
from pullback.models.families.pixart import PixArt
from pullback.models.families.sd3 import SD3
from pullback.models.families.unet import UNet

__all__ = [
    "BLOCKS",
    "FAMILIES",
    "Argument",
    "Blocks",
    "Family",
    "Flat",
    "Observed",
    "blocks_of",
    "family_of",
    "flat",
    "nested",
]

#: The family of each network class of diffusers.
FAMILIES: dict[type[nn.Module], Family] = {
    UNet2DModel: UNet(),
    UNet2DConditionModel: ConditionUNet(),
    DiTTransformer2DModel: DiT(),
    PixArtTransformer2DModel: PixArt(),
    SD3Transformer2DModel: SD3(),
    FluxTransformer2DModel: Flux(),
}


def family_of(network: Any) -> Family:
    """The family of a network of a known class or one derived from it, else that of callables."""
    found = (family for kind, family in FAMILIES.items() if isinstance(network, kind))
    return next(found, Custom())
