"""Any callable f(x, t, **cond), of which nothing is known."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from typing_extensions import override

from pullback.models.families.base import Argument, Family, Flat, nested


class Custom(Family):
    """Any callable f(x, t, **cond)."""

    label = "custom"

    @override
    def latent_shape(self, network: Any) -> tuple[int, ...]:
        raise ValueError(
            "How large the latents of this network are is not known. Pass latent_shape=(C, H, W)."
        )

    @override
    def check_shape(self, network: Any, shape: tuple[int, ...]) -> None:
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
