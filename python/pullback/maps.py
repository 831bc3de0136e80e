"""The maps whose Jacobians are studied."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

#: Which tensor of a block's output is the image feature, where the block returns a tuple.
FEATURE_INDEX = {
    "DownBlock2D": 0,
    "AttnDownBlock2D": 0,
    "SkipDownBlock2D": 0,
    "AttnSkipDownBlock2D": 0,
    "ResnetDownsampleBlock2D": 0,
    "KDownBlock2D": 0,
    "UpBlock2D": 0,
    "AttnUpBlock2D": 0,
    "SkipUpBlock2D": 0,
    "AttnSkipUpBlock2D": 0,
}


@dataclass(frozen=True)
class Tap:
    """A place inside a network where its features are read.

    Attributes:
        path: dotted path of the module, such as "mid_block".
        shape: shape of the feature of one sample.
        share: how much of the network's forward pass, in multiplications, comes before the
            feature is there: between 0 and 1.
    """

    path: str
    shape: tuple[int, ...]
    share: float

    def __str__(self) -> str:
        size = " x ".join(map(str, self.shape))
        return f"{self.path:24} {size:>16}  {self.share:6.1%} of the forward pass"


class _Reached(Exception):  # noqa: N818 - a signal, not an error
    """Raised by the hook at the tap, so that nothing after it is computed."""


class Encoder:
    """The map from latents x to the feature h at a tap: f(x, t, *condition) -> h.

    The forward pass stops right after the tap. The network is left as it was found.

    Args:
        network: a diffusers network, called as `network(x, t, **condition)`.
        path: dotted path of the module whose output is the feature.
        names: names of the condition's arguments, in the order in which f takes them.
    """

    def __init__(self, network: nn.Module, path: str, names: Sequence[str] = ()) -> None:
        self.network, self.path, self.names = network, path, tuple(names)
        self._module = network.get_submodule(path)

    def __call__(self, x: torch.Tensor, t: torch.Tensor, *condition: torch.Tensor) -> torch.Tensor:
        """The feature `[B, *h_shape]` of latents `[B, *x_shape]` at timesteps `[B]`."""
        reached: list[torch.Tensor] = []
        owner = threading.get_ident()

        def stop(module: nn.Module, _inputs: object, output: object) -> None:
            if threading.get_ident() != owner:
                return  # another thread's pass through the same network
            reached.append(feature(module, output, self.path))
            raise _Reached

        hook = self._module.register_forward_hook(stop)
        try:
            self.network(x, t, **dict(zip(self.names, condition, strict=True)))
        except _Reached:
            return reached[0]
        finally:
            hook.remove()
        raise ValueError(
            f"The forward pass ended without reaching {self.path!r}. Expected a module that the "
            "network calls as a whole; model.taps() lists those that it does."
        )


def feature(module: nn.Module, output: object, path: str) -> torch.Tensor:
    """The image feature among the outputs of a block.

    Raises:
        TypeError: the block returns several tensors and its class is not in `FEATURE_INDEX`.
    """
    if isinstance(output, torch.Tensor):
        return output
    name = type(module).__name__
    if isinstance(output, tuple) and name in FEATURE_INDEX:
        return output[FEATURE_INDEX[name]]
    raise TypeError(
        f"{path!r} is a {name}, which returns a {type(output).__name__}, and which of its tensors "
        "is the image feature is not known. Choose a tap inside it that returns one tensor "
        "(model.network.get_submodule lists its children)."
    )
