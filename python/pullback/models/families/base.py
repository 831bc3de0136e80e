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


def encoded(pipeline: Any, prompts: list[str], *others: None) -> tuple[Any, ...]:
    """What the pipeline's `encode_prompt` returns, without the half for guidance.

    Args:
        pipeline: a diffusers pipeline with a text encoder.
        prompts: one per sample.
        *others: None for each further prompt that its text encoders could be given.
    """
    return pipeline.encode_prompt(
        prompts,
        *others,
        device=pipeline.device,
        num_images_per_prompt=1,
        do_classifier_free_guidance=False,
    )


class Family(ABC):
    """A class of networks. Methods take the network, which they never change.

    Attributes:
        label: what people call it.
        flow: whether it predicts the velocity of a straight path from noise to data, with t its
            share of noise in thousandths.
        feature_index: which tensor of a block's output is the image feature, by the block's class,
            where the block returns a tuple.
    """

    label = ""
    flow = False
    feature_index: Mapping[str, int] = MappingProxyType({})

    def latent_shape(self, network: Any) -> tuple[int, int, int]:
        """(C, H, W) of x; raises ValueError where the configuration does not say."""
        size = network.config.sample_size
        if size is None:
            raise ValueError(
                f"The {type(network).__name__} does not say how large its latents are: expected "
                "sample_size in its config, got None. Pass latent_shape=(C, H, W)."
            )
        height, width = (size, size) if isinstance(size, int) else size
        return (network.config.in_channels, height, width)

    def pipeline_latent_shape(self, pipeline: Any) -> tuple[int, int, int] | None:  # noqa: ARG002
        """(C, H, W) of x where only the pipeline says it, else None."""
        return None

    def check_shape(self, network: Any, shape: tuple[int, int, int]) -> None:
        """Raise ValueError where the network cannot take latents of this shape."""
        channels = network.config.in_channels
        if shape[0] != channels:
            raise ValueError(
                f"Expected latents of shape ({channels}, H, W) for this {type(network).__name__}, "
                f"got {shape}."
            )

    @abstractmethod
    def arguments(self, network: Any) -> dict[str, Argument] | None:
        """The conditioning arguments that the network takes, flat; None where that is not known."""

    def null(self, network: Any) -> dict[str, torch.Tensor] | None:  # noqa: ARG002
        """The null condition of one sample where the network itself has one, else None."""
        return None

    def blank(self, network: Any) -> dict[str, torch.Tensor]:  # noqa: ARG002
        """A condition of one sample of the right shapes, for passes whose values do not matter."""
        return {}

    def encode(
        self,
        pipeline: Any,
        network: Any,  # noqa: ARG002
        prompts: list[str],
        guidance: float,  # noqa: ARG002
    ) -> dict[str, torch.Tensor]:
        """The condition of prompts, by the pipeline's own `encode_prompt`.

        Args:
            pipeline: a diffusers pipeline around the network, with a text encoder.
            network: the network, unwrapped.
            prompts: one per sample.
            guidance: the distilled guidance scale, for networks that take one as an argument.

        Returns:
            Tensors `[B, ...]` by the network's argument names, nested ones joined by a dot.
        """
        words, _ = encoded(pipeline, prompts)
        return {"encoder_hidden_states": words}

    @abstractmethod
    def call(self, network: Any, x: torch.Tensor, t: torch.Tensor, cond: Flat) -> Any:
        """The prediction [B, C, H, W] (or more channels) for latents x at timesteps t [B]."""

    @abstractmethod
    def blocks(self, network: Any) -> list[str]:
        """Paths of the blocks, in the order they run."""

    def default_tap(self, network: Any) -> str:
        """The middle block."""
        blocks = self.blocks(network)
        return blocks[(len(blocks) - 1) // 2]
