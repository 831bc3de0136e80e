"""A network that is called as its own pipeline calls it."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from typing_extensions import override

from pullback.models.families.base import Argument, Family, Flat


class _Reading(Protocol):
    """What has been learned of a pipeline: see `pullback.models.reading.Reading`."""

    @property
    def latent_shape(self) -> tuple[int, ...]: ...

    @property
    def condition_names(self) -> list[str]: ...

    @property
    def optional(self) -> list[str]: ...

    def call(self, x: torch.Tensor, t: torch.Tensor, cond: Flat) -> Any: ...


class _Known(Protocol):
    """What is known of a class of networks: a `Family`, or its `Blocks` alone."""

    @property
    def label(self) -> str: ...

    @property
    def merges_frames(self) -> bool: ...

    @property
    def channel_axis(self) -> int: ...

    def blocks(self, network: Any) -> list[str]: ...

    def default_tap(self, network: Any) -> str: ...


class Observed(Family):
    """A network that is called as its own pipeline calls it.

    Args:
        reading: what has been learned of the pipeline.
        known: what is known of networks of its class.
    """

    own_dtypes = True

    def __init__(self, reading: _Reading, known: _Known) -> None:
        self._reading, self._known = reading, known
        self.label, self.merges_frames = known.label, known.merges_frames
        self.channel_axis = known.channel_axis

    @override
    def latent_shape(self, network: Any) -> tuple[int, ...]:
        return self._reading.latent_shape

    @override
    def check_shape(self, network: Any, shape: tuple[int, ...]) -> None:
        if shape != self._reading.latent_shape:
            raise ValueError(
                f"Expected latents of shape {self._reading.latent_shape}, as the pipeline makes "
                f"them, got {shape}. For another size load the pipeline with the keyword arguments "
                "that ask it for that size: call={'height': ..., 'width': ...}."
            )

    @override
    def arguments(self, network: Any) -> dict[str, Argument]:
        known = self._known.arguments(network) if isinstance(self._known, Family) else None
        return {
            name: Argument(
                needed=name not in self._reading.optional,
                classes=known[name].classes if known and name in known else 0,
            )
            for name in self._reading.condition_names
        }

    @override
    def null(self, network: Any) -> dict[str, torch.Tensor] | None:
        return self._known.null(network) if isinstance(self._known, Family) else None

    @override
    def call(self, network: Any, x: torch.Tensor, t: torch.Tensor, cond: Flat) -> Any:
        return self._reading.call(x, t, cond)

    @override
    def blocks(self, network: Any) -> list[str]:
        return self._known.blocks(network)

    @override
    def default_tap(self, network: Any) -> str:
        return self._known.default_tap(network)
