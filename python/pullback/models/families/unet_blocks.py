"""What the U-Nets of diffusers have in common: their blocks."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

from typing_extensions import override

from pullback.models.families.base import Family


class AnyUNet(Family):
    """Blocks on the way down, in the middle and on the way up.

    Those on the way down return what they pass on beside the feature, which comes first.
    """

    feature_index = MappingProxyType(
        dict.fromkeys(
            (
                "DownBlock2D",
                "AttnDownBlock2D",
                "CrossAttnDownBlock2D",
                "SimpleCrossAttnDownBlock2D",
                "SkipDownBlock2D",
                "AttnSkipDownBlock2D",
                "ResnetDownsampleBlock2D",
                "KDownBlock2D",
                "KCrossAttnDownBlock2D",
                "UpBlock2D",
                "AttnUpBlock2D",
                "SkipUpBlock2D",
                "AttnSkipUpBlock2D",
                "Transformer2DModel",
            ),
            0,
        )
    )

    @override
    def blocks(self, network: Any) -> list[str]:
        return unet_blocks(network)

    @override
    def default_tap(self, network: Any) -> str:
        return "mid_block" if network.mid_block is not None else super().default_tap(network)


def unet_blocks(network: Any) -> list[str]:
    """Paths of the blocks of a U-Net, in the order they run."""
    middle = ["mid_block"] if network.mid_block is not None else []
    down = [f"down_blocks.{i}" for i in range(len(network.down_blocks))]
    return down + middle + [f"up_blocks.{i}" for i in range(len(network.up_blocks))]
