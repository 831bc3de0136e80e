"""What differs between the networks of diffusers: how they are called, conditioned and tapped.

One `Family` per network class. The network itself runs untouched: a family only turns x, t and the
condition into the arguments that its forward pass takes, and the output into a prediction
[B, C, H, W].
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import (
    DiTTransformer2DModel,
    FluxTransformer2DModel,
    PixArtTransformer2DModel,
    SD3Transformer2DModel,
    UNet2DConditionModel,
    UNet2DModel,
)
from torch import nn
from typing_extensions import override

#: A condition, flat: the network's own argument names, nested ones joined by a dot.
Flat = Mapping[str, torch.Tensor]

_WORDS = 77  # of a blank prompt, as many as CLIP's


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
    """

    label = ""
    flow = False

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


class _UNet(Family):
    @override
    def blocks(self, network: Any) -> list[str]:
        middle = ["mid_block"] if network.mid_block is not None else []
        down = [f"down_blocks.{i}" for i in range(len(network.down_blocks))]
        return down + middle + [f"up_blocks.{i}" for i in range(len(network.up_blocks))]

    @override
    def default_tap(self, network: Any) -> str:
        return "mid_block" if network.mid_block is not None else super().default_tap(network)


class UNet(_UNet):
    """`UNet2DModel`: DDPM, LDM without text."""

    label = "DDPM U-Net"

    @override
    def arguments(self, network: Any) -> dict[str, Argument]:
        if network.class_embedding is None:
            return {}
        return {"class_labels": Argument(classes=network.config.num_class_embeds or 0)}

    @override
    def blank(self, network: Any) -> dict[str, torch.Tensor]:
        return {} if network.class_embedding is None else {"class_labels": torch.tensor(0)}

    @override
    def call(self, network: Any, x: torch.Tensor, t: torch.Tensor, cond: Flat) -> Any:
        return network(x, t, **nested(cond)).sample


class ConditionUNet(_UNet):
    """`UNet2DConditionModel`: Stable Diffusion 1, 2 and XL, and their relatives."""

    label = "Stable Diffusion U-Net"

    @override
    def arguments(self, network: Any) -> dict[str, Argument]:
        config = network.config
        found = {
            "encoder_hidden_states": Argument(),
            "encoder_attention_mask": Argument(needed=False),
            "timestep_cond": Argument(needed=False),
        }
        if network.class_embedding is not None:
            classes = config.num_class_embeds or 0 if config.class_embed_type is None else 0
            found["class_labels"] = Argument(classes=classes)
        added = {
            "text_time": ("text_embeds", "time_ids"),
            "text_image": ("image_embeds", "text_embeds"),
            "image": ("image_embeds",),
            "image_hint": ("image_embeds", "hint"),
        }.get(config.addition_embed_type, ())
        return found | {f"added_cond_kwargs.{name}": Argument() for name in added}

    @override
    def blank(self, network: Any) -> dict[str, torch.Tensor]:
        config = network.config
        width = config.encoder_hid_dim or config.cross_attention_dim
        width = width if isinstance(width, int) else width[0]  # one for each block
        found = {"encoder_hidden_states": torch.zeros(_WORDS, width)}
        if network.class_embedding is not None:
            found["class_labels"] = torch.tensor(0)
        if config.addition_embed_type == "text_time":
            sizes = 6
            pooled = (
                config.projection_class_embeddings_input_dim
                - sizes * config.addition_time_embed_dim
            )
            found["added_cond_kwargs.text_embeds"] = torch.zeros(pooled)
            found["added_cond_kwargs.time_ids"] = torch.zeros(sizes)
        return found

    @override
    def call(self, network: Any, x: torch.Tensor, t: torch.Tensor, cond: Flat) -> Any:
        return network(x, t, **nested(cond)).sample


class _Transformer(Family):
    @override
    def call(self, network: Any, x: torch.Tensor, t: torch.Tensor, cond: Flat) -> Any:
        return network(x, timestep=t, **nested(cond)).sample

    @override
    def blocks(self, network: Any) -> list[str]:
        return [f"transformer_blocks.{i}" for i in range(len(network.transformer_blocks))]


class DiT(_Transformer):
    """`DiTTransformer2DModel`."""

    label = "DiT"

    @override
    def arguments(self, network: Any) -> dict[str, Argument]:
        # The class after the last stands for "no class".
        return {"class_labels": Argument(classes=network.config.num_embeds_ada_norm + 1)}

    @override
    def null(self, network: Any) -> dict[str, torch.Tensor]:
        return {"class_labels": torch.tensor(network.config.num_embeds_ada_norm)}


class PixArt(_Transformer):
    """`PixArtTransformer2DModel`: PixArt-α and PixArt-Σ."""

    label = "PixArt"

    @override
    def arguments(self, network: Any) -> dict[str, Argument]:
        size = Argument(needed=bool(network.use_additional_conditions))
        found = {"encoder_hidden_states": Argument(), "encoder_attention_mask": Argument(False)}
        if size.needed:
            found |= {f"added_cond_kwargs.{name}": size for name in ("resolution", "aspect_ratio")}
        return found

    @override
    def blank(self, network: Any) -> dict[str, torch.Tensor]:
        found = {"encoder_hidden_states": torch.zeros(_WORDS, network.config.caption_channels)}
        if network.use_additional_conditions:
            found["added_cond_kwargs.resolution"] = torch.zeros(2)
            found["added_cond_kwargs.aspect_ratio"] = torch.zeros(1)
        return found

    @override
    def call(self, network: Any, x: torch.Tensor, t: torch.Tensor, cond: Flat) -> Any:
        added = {"resolution": None, "aspect_ratio": None}
        arguments = {"added_cond_kwargs": added} | nested(cond)
        return network(x, timestep=t, **arguments).sample


class SD3(_Transformer):
    """`SD3Transformer2DModel`: Stable Diffusion 3 and 3.5."""

    label = "Stable Diffusion 3"
    flow = True

    @override
    def arguments(self, network: Any) -> dict[str, Argument]:
        return {"encoder_hidden_states": Argument(), "pooled_projections": Argument()}

    @override
    def blank(self, network: Any) -> dict[str, torch.Tensor]:
        return _words_and_pooled(network)


class Flux(_Transformer):
    """`FluxTransformer2DModel`. x is unpacked; patches of 2 × 2 are packed and unpacked here."""

    label = "Flux"
    flow = True

    @override
    def latent_shape(self, network: Any) -> tuple[int, int, int]:
        raise ValueError(
            "A Flux transformer does not say how large its latents are. Pass latent_shape="
            f"({network.config.in_channels // 4}, H, W), H and W an eighth of the image's."
        )

    @override
    def check_shape(self, network: Any, shape: tuple[int, int, int]) -> None:
        channels = network.config.in_channels // 4
        if shape[0] != channels or shape[1] % 2 or shape[2] % 2:
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
        guided = {"guidance": torch.tensor(1.0)} if network.config.guidance_embeds else {}
        return _words_and_pooled(network) | guided

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


def _words_and_pooled(network: Any) -> dict[str, torch.Tensor]:
    config = network.config
    return {
        "encoder_hidden_states": torch.zeros(_WORDS, config.joint_attention_dim),
        "pooled_projections": torch.zeros(config.pooled_projection_dim),
    }


class Custom(Family):
    """Any callable f(x, t, **cond)."""

    label = "custom"

    @override
    def latent_shape(self, network: Any) -> tuple[int, int, int]:
        raise ValueError(
            "How large the latents of this network are is not known. Pass latent_shape=(C, H, W)."
        )

    @override
    def check_shape(self, network: Any, shape: tuple[int, int, int]) -> None:
        pass  # what it takes is not known

    @override
    def arguments(self, network: Any) -> dict[str, Argument] | None:
        return None

    @override
    def call(self, network: Any, x: torch.Tensor, t: torch.Tensor, cond: Flat) -> Any:
        output = network(x, t, **nested(cond))
        found = output if isinstance(output, torch.Tensor) else getattr(output, "sample", None)
        if not isinstance(found, torch.Tensor):
            raise TypeError(
                "Expected f(x, t, **cond) to return a tensor [B, C, H, W] or an object with it as "
                f"sample, got {type(output).__name__}. Wrap f in a function that picks it."
            )
        return found

    @override
    def blocks(self, network: Any) -> list[str]:
        if not isinstance(network, nn.Module):
            return []
        found: list[str] = []
        for name, child in network.named_children():
            if isinstance(child, (nn.ModuleList, nn.Sequential)):
                found += [f"{name}.{i}" for i in range(len(child))]
            else:
                found.append(name)
        return found

    @override
    def default_tap(self, network: Any) -> str:
        raise ValueError(
            f"Which module of this {type(network).__name__} holds the features to study is not "
            f"known. Say it: tap=path, for example one of {', '.join(self.blocks(network)[:8])}."
        )


#: The family of each network class of diffusers.
FAMILIES: dict[type[nn.Module], Family] = {
    UNet2DModel: UNet(),
    UNet2DConditionModel: ConditionUNet(),
    DiTTransformer2DModel: DiT(),
    PixArtTransformer2DModel: PixArt(),
    SD3Transformer2DModel: SD3(),
    FluxTransformer2DModel: Flux(),
}
