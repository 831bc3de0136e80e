"""Where the blocks of more networks of diffusers are, and which of their outputs is the image.

How these networks are called is learned from their pipelines, so that nothing else stands here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from pullback.models.families.unet_blocks import unet_blocks

_PLAIN: tuple[str, ...] = ("transformer_blocks",)
_DOUBLE_AND_SINGLE = ("transformer_blocks", "single_transformer_blocks")


@dataclass(frozen=True)
class Blocks:
    """The blocks of a network.

    Attributes:
        label: what people call the network.
        lists: its lists of blocks, in the order they run.
        feature_index: which tensor of a block's output is the image feature, by the block's class,
            where the block returns a tuple.
        merges_frames: whether features have a row for each frame of each sample.
        channel_axis: which axis of the latents of one sample holds the channels; behind the frames
            of some videos it is not the first.
    """

    label: str
    lists: tuple[str, ...] = _PLAIN
    feature_index: Mapping[str, int] = field(default_factory=dict)
    merges_frames: bool = False
    channel_axis: int = 0

    def blocks(self, network: Any) -> list[str]:
        """Paths of the blocks, in the order they run."""
        return [f"{name}.{i}" for name in self.lists for i in range(len(getattr(network, name)))]

    def default_tap(self, network: Any) -> str:
        """The middle block."""
        blocks = self.blocks(network)
        if not blocks:
            raise ValueError(
                f"Which module of this {type(network).__name__} holds the features to study is not "
                "known. Say it: tap=path, the path of a module of the network."
            )
        return blocks[(len(blocks) - 1) // 2]


@dataclass(frozen=True)
class UNetBlocks(Blocks):
    """The blocks of a U-Net."""

    def blocks(self, network: Any) -> list[str]:
        """Paths of the blocks, in the order they run."""
        return unet_blocks(network)

    def default_tap(self, network: Any) -> str:
        """The middle block."""
        return "mid_block" if network.mid_block is not None else super().default_tap(network)


@dataclass(frozen=True)
class CascadeBlocks(Blocks):
    """The blocks of Stable Cascade's U-Net, which has lists of them at every resolution."""

    lists: tuple[str, ...] = ("down_blocks", "up_blocks")

    def blocks(self, network: Any) -> list[str]:
        """Paths of the blocks, in the order they run."""
        return [
            f"{name}.{i}.{j}"
            for name in self.lists
            for i, level in enumerate(getattr(network, name))
            for j in range(len(level))
        ]

    def default_tap(self, network: Any) -> str:
        """The last on the way down."""
        return [path for path in self.blocks(network) if path.startswith(self.lists[0])][-1]


#: By the class of the network.
BLOCKS = {
    "AuraFlowTransformer2DModel": Blocks(
        "AuraFlow",
        ("joint_transformer_blocks", "single_transformer_blocks"),
        {"AuraFlowJointTransformerBlock": 1},
    ),
    "BriaTransformer2DModel": Blocks(
        "Bria", _DOUBLE_AND_SINGLE, {"BriaTransformerBlock": 1, "BriaSingleTransformerBlock": 1}
    ),
    "ChromaTransformer2DModel": Blocks("Chroma", _DOUBLE_AND_SINGLE, {"ChromaTransformerBlock": 1}),
    "CogVideoXTransformer3DModel": Blocks(
        "CogVideoX", _PLAIN, {"CogVideoXBlock": 0}, channel_axis=1
    ),
    "CogView3PlusTransformer2DModel": Blocks(
        "CogView 3+", _PLAIN, {"CogView3PlusTransformerBlock": 0}
    ),
    "CogView4Transformer2DModel": Blocks("CogView 4", _PLAIN, {"CogView4TransformerBlock": 0}),
    "Flux2Transformer2DModel": Blocks("Flux 2", _DOUBLE_AND_SINGLE, {"Flux2TransformerBlock": 1}),
    "HiDreamImageTransformer2DModel": Blocks(
        "HiDream", ("double_stream_blocks", "single_stream_blocks"), {"HiDreamBlock": 0}
    ),
    "HunyuanDiT2DModel": Blocks("HunyuanDiT", ("blocks",)),
    "HunyuanImageTransformer2DModel": Blocks(
        "HunyuanImage",
        _DOUBLE_AND_SINGLE,
        {"HunyuanImageTransformerBlock": 0, "HunyuanImageSingleTransformerBlock": 0},
    ),
    "HunyuanVideoTransformer3DModel": Blocks(
        "HunyuanVideo",
        _DOUBLE_AND_SINGLE,
        {"HunyuanVideoTransformerBlock": 0, "HunyuanVideoSingleTransformerBlock": 0},
    ),
    "Kandinsky3UNet": Blocks("Kandinsky 3", ("down_blocks", "up_blocks")),
    "Kandinsky5Transformer3DModel": Blocks("Kandinsky 5", ("visual_transformer_blocks",)),
    "LTXVideoTransformer3DModel": Blocks("LTX-Video"),
    "Lumina2Transformer2DModel": Blocks("Lumina 2", ("layers",)),
    "MochiTransformer3DModel": Blocks("Mochi", _PLAIN, {"MochiTransformerBlock": 0}),
    "OmniGenTransformer2DModel": Blocks("OmniGen", ("layers",)),
    "OvisImageTransformer2DModel": Blocks(
        "Ovis-Image",
        _DOUBLE_AND_SINGLE,
        {"OvisImageTransformerBlock": 1, "OvisImageSingleTransformerBlock": 1},
    ),
    "PRXTransformer2DModel": Blocks("PRX", ("blocks",)),
    "QwenImageTransformer2DModel": Blocks("Qwen-Image", _PLAIN, {"QwenImageTransformerBlock": 1}),
    "SanaTransformer2DModel": Blocks("Sana"),
    "StableCascadeUNet": CascadeBlocks("Stable Cascade"),
    "StableAudioDiTModel": Blocks("Stable Audio"),
    "UNetMotionModel": UNetBlocks(
        "AnimateDiff",
        feature_index=dict.fromkeys(("DownBlockMotion", "CrossAttnDownBlockMotion"), 0),
        merges_frames=True,
    ),
    "UNetSpatioTemporalConditionModel": UNetBlocks(
        "Stable Video Diffusion",
        feature_index=dict.fromkeys(
            ("DownBlockSpatioTemporal", "CrossAttnDownBlockSpatioTemporal"), 0
        ),
        merges_frames=True,
        channel_axis=1,
    ),
    "WanTransformer3DModel": Blocks("Wan", ("blocks",)),
    "ZImageTransformer2DModel": Blocks("Z-Image", ("layers",)),
}


def blocks_of(network: Any) -> Blocks:
    """The blocks of a network of a known class, or of one derived from it.

    Of another, those of a U-Net where it has such, else everything that stands in a list.
    """
    for kind in type(network).__mro__:
        if kind.__name__ in BLOCKS:
            return BLOCKS[kind.__name__]
    if all(hasattr(network, name) for name in ("down_blocks", "mid_block", "up_blocks")):
        return UNetBlocks(type(network).__name__)
    lists = [name for name, part in network.named_children() if isinstance(part, nn.ModuleList)]
    return Blocks(type(network).__name__, tuple(lists))
