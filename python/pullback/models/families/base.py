"""What a family of networks is: how it is called, conditioned, encoded and tapped."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch

#: A condition, flat: the network's own argument names, nested ones joined by a dot.
Flat = Mapping[str, torch.Tensor]

#: Tokens of a blank prompt, as many as CLIP's.
WORDS = 77


@dataclass(frozen=True)
class Argument:
    """A conditioning argument of a network.

    Attributes:
        needed: whether the forward pass fails without it.
        classes: number of classes, where it is a class label [B]; 0 where it is not.
    """

    needed: bool = True
    classes: int = 0


def nested(cond: Flat) -> dict[str, Any]:
    """The condition as keyword arguments: "a.b" becomes {"a": {"b": ...}}."""
    result: dict[str, Any] = {}
    for name, value in cond.items():
        outer, _, inner = name.partition(".")
        if inner:
            result.setdefault(outer, {})[inner] = value
        else:
            result[outer] = value
    return result


def flat(cond: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `nested`; entries that are None are left out."""
    result: dict[str, Any] = {}
    for name, value in cond.items():
        if isinstance(value, Mapping):
            result.update({f"{name}.{inner}": part for inner, part in value.items()})
        else:
            result[name] = value
    return {name: value for name, value in result.items() if value is not None}


class Family(ABC):
    """A class of networks. Methods take the network, which they never change.

    Attributes:
        label: what people call it.
        flow: whether it predicts the velocity of a straight path from noise to data, with t its
            share of noise in thousandths.
        own_dtypes: whether entries of a condition keep their dtypes, and are not brought to that of
            the network.
        merges_frames: whether features of its blocks have a row for each frame of each sample.
        channel_axis: which axis of the latents of one sample holds the channels; behind the frames
            of some videos it is not the first.
        feature_index: which tensor of a block's output is the image feature, by the block's class,
            where the block returns a tuple.
    """

    label = ""
    flow = False
    own_dtypes = False
    merges_frames = False
    channel_axis = 0
    feature_index: Mapping[str, int] = MappingProxyType({})

    def latent_shape(self, network: Any) -> tuple[int, ...]:
        """The shape of x; raises ValueError where the configuration does not say."""
        size = network.config.sample_size
        if size is None:
            raise ValueError(
                f"The {type(network).__name__} does not say how large its latents are: expected "
                "sample_size in its config, got None. Pass latent_shape=(C, H, W)."
            )
        height, width = (size, size) if isinstance(size, int) else size
        return (network.config.in_channels, height, width)

    def check_shape(self, network: Any, shape: tuple[int, ...]) -> None:
        """Raise ValueError where the network cannot take latents of this shape."""
        channels = network.config.in_channels
        if len(shape) != 3 or shape[0] != channels:
            raise ValueError(
                f"Expected latents of shape ({channels}, H, W) for this {type(network).__name__}, "
                f"got {shape}."
            )

    @abstractmethod
    def arguments(self, network: Any) -> dict[str, Argument] | None:
        """The conditioning arguments that the network takes, flat; None where that is not known."""

    def null(self, network: Any) -> dict[str, torch.Tensor] | None:  # noqa: ARG002
        """The null condition, each `[*shape]` of one sample, where the network itself has one."""
        return None

    def blank(self, network: Any) -> dict[str, torch.Tensor]:  # noqa: ARG002
        """A condition, each `[*shape]` of one sample, for passes whose values do not matter."""
        return {}

    @abstractmethod
    def call(self, network: Any, x: torch.Tensor, t: torch.Tensor, cond: Flat) -> Any:
        """The prediction `[B, *x_shape]` (or more channels) of the network.

        Args:
            network: the network.
            x: latents `[B, *x_shape]`.
            t: timesteps `[B]`, in training units.
            cond: a condition, tensors `[B, ...]`.
        """

    @abstractmethod
    def blocks(self, network: Any) -> list[str]:
        """Paths of the blocks, in the order they run."""

    def default_tap(self, network: Any) -> str:
        """The middle block."""
        blocks = self.blocks(network)
        return blocks[(len(blocks) - 1) // 2]
