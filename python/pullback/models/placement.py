"""Where a network lies, and in which dtype."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from diffusers import ModelMixin
from torch import nn


@dataclass(frozen=True, eq=False)
class Placement:
    """Device and dtype of a network, read from its parameters whenever they are asked for.

    Attributes:
        network: a module, or any callable.
        fixed_device: device of a callable without parameters; None means the CPU.
        fixed_dtype: dtype of x for a callable without parameters; None means float32.
    """

    network: Any
    fixed_device: torch.device | str | None = None
    fixed_dtype: torch.dtype | None = None

    @property
    def _parameter(self) -> torch.Tensor | None:
        is_module = isinstance(self.network, nn.Module)
        return next(self.network.parameters(), None) if is_module else None

    @property
    def device(self) -> torch.device:
        """Device of the network's parameters, and of x."""
        parameter = self._parameter
        return torch.device(self.fixed_device or "cpu") if parameter is None else parameter.device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the network's parameters, and of x."""
        if isinstance(self.network, ModelMixin):  # some of whose parameters may stay in float32
            dtype: torch.dtype = self.network.dtype
            return dtype
        parameter = self._parameter
        if parameter is None:
            return self.fixed_dtype or torch.float32
        # Those of diffusers may keep some parameters in float32, the first one among them.
        own: torch.dtype = (
            self.network.dtype if isinstance(self.network, ModelMixin) else parameter.dtype
        )
        return own


def check_tensor(x: object, shape: tuple[int, ...], place: Placement, name: str) -> None:
    """Raise unless x is finite latents `[B, *shape]` in the dtype and place of a network.

    Args:
        x: what was given, `[B, *shape]`.
        shape: of one sample.
        place: of the network.
        name: what the model is called.

    Raises:
        TypeError: it is no tensor.
        ValueError: it has another shape, dtype or device, or is not finite.
    """
    if not isinstance(x, torch.Tensor):
        raise TypeError(
            f"Expected latents as a tensor, got {type(x).__name__}. Convert them with "
            "torch.as_tensor."
        )
    expected = f"[B, {', '.join(map(str, shape))}]"
    if x.dim() == 0 or tuple(x.shape[1:]) != shape or len(x) == 0:
        raise ValueError(f"Expected latents of shape {expected} for {name}, got {list(x.shape)}.")
    if x.dtype != place.dtype or x.device != place.device:
        raise ValueError(
            f"Expected latents in {place.dtype} on {place.device}, like the network, got "
            f"{x.dtype} on {x.device}. Convert them with x.to({str(place.device)!r}, "
            f"{place.dtype})."
        )
    finite = torch.isfinite(x).flatten(1).all(1)
    if not bool(finite.all()):
        raise ValueError(
            f"x contains NaN or Inf in samples {torch.nonzero(~finite).flatten().tolist()}. "
            "Expected finite latents; the usual causes are a half-precision overflow while "
            "sampling and a wrong scaling of the input."
        )
