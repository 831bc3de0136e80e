"""Taps: places inside a network where features are read, or put back."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pullback.models.families import BLOCKS, FAMILIES

#: Which tensor of a block's output is the image feature, where the block returns a tuple: what
#: the families say of their blocks, for any network that has such blocks.
FEATURE_INDEX = {
    name: index
    for known in (
        *(family.feature_index for family in FAMILIES.values()),
        *(blocks.feature_index for blocks in BLOCKS.values()),
    )
    for name, index in known.items()
}

#: A tap as users name it: a module path, or a path and which tensor of the module's output.
TapName = str | tuple[str, int]


@dataclass(frozen=True)
class Tap:
    """A place inside a network where its features are read.

    Attributes:
        path: dotted path of the module, such as "mid_block", with ":index" where the module
            returns several tensors and which is the feature is not known.
        shape: shape of the feature of one sample.
        share: how much of the network's forward pass, in multiplications, comes before the
            feature is there: between 0 and 1.
    """

    path: str
    shape: tuple[int, ...]
    share: float

    def __str__(self) -> str:
        size = " x ".join(map(str, self.shape))
        return f"{self.path:32} {size:>16}  {self.share:6.1%} of the forward pass"


@dataclass(frozen=True)
class Site:
    """A module of a network and which tensor of its output is meant; None leaves it to a table.

    `str(site)` is the path, with ":index" where an index was given; `Site.of` reads it back.
    Where the network makes rows of the frames of each sample, `merged`, they are taken apart.
    """

    path: str
    index: int | None = None
    merged: bool = False

    @classmethod
    def of(cls, name: TapName | Tap) -> Site:
        """From a path, "path:index", (path, index), or a `Tap` of `LatentModel.taps`.

        Raises:
            TypeError: it is none of them.
        """
        name = name.path if isinstance(name, Tap) else name
        if isinstance(name, str):
            path, colon, index = name.rpartition(":")
            return cls(path, int(index)) if colon and index.isdecimal() else cls(name)
        if (
            isinstance(name, (tuple, list))
            and len(name) == 2
            and isinstance(name[0], str)
            and isinstance(name[1], int)
            and not isinstance(name[1], bool)
        ):
            return cls(name[0], name[1])
        raise TypeError(
            f'Expected a tap as a module path such as "mid_block", or (path, index), got {name!r}.'
        )

    def __str__(self) -> str:
        return self.path if self.index is None else f"{self.path}:{self.index}"

    def read(self, module: nn.Module, output: object, count: int) -> torch.Tensor:
        """The feature `[B, *h_shape]` among the outputs of the module.

        Args:
            module: the module.
            output: what it returned.
            count: samples in the batch, B.

        Raises:
            TypeError: the module returns several tensors, no index was given and its class is not
                in `FEATURE_INDEX`; or what was picked is no tensor.
        """
        place = self.place(module, output)
        if place is None:
            assert isinstance(output, torch.Tensor)
            return self._apart(output, count)
        assert isinstance(output, (tuple, list))
        found = output[place]
        if not isinstance(found, torch.Tensor):
            raise TypeError(
                f"{self.path!r} returns a {type(found).__name__} at index {place}, not a tensor. "
                "Choose another index or another tap."
            )
        return self._apart(found, count)

    def _apart(self, rows: torch.Tensor, count: int) -> torch.Tensor:
        return rows.unflatten(0, (count, -1)) if self.merged and len(rows) != count else rows

    def write(self, module: nn.Module, output: object, feature: torch.Tensor) -> object:
        """The module's output with the feature `[B, *h_shape]` replaced."""
        place = self.place(module, output)
        whole = output if place is None else output[place]  # type: ignore[index]
        assert isinstance(whole, torch.Tensor)
        if feature.dim() > whole.dim():  # frames, which the network has as rows
            feature = feature.flatten(0, 1)
        if place is None:
            return feature
        assert isinstance(output, (tuple, list))
        return (*output[:place], feature, *output[place + 1 :])

    def place(self, module: nn.Module, output: object) -> int | None:
        """Position of the feature in the module's output; None if that is the feature itself."""
        name = type(module).__name__
        if isinstance(output, torch.Tensor):
            if FEATURE_INDEX.get(name):  # streams, of which the image is not the first
                raise TypeError(
                    f"{self.path!r} is a {name} that returns text and image joined in one tensor, "
                    "as old versions of diffusers do. Expected two streams: update diffusers."
                )
            if self.index not in (None, 0):
                raise TypeError(f"{self.path!r} returns one tensor, so there is no {self}.")
            return None
        if not isinstance(output, (tuple, list)):
            raise TypeError(
                f"{self.path!r} is a {name}, which returns a {type(output).__name__}. Expected a "
                "tap that returns a tensor or a tuple: choose a module inside it."
            )
        index = FEATURE_INDEX.get(name) if self.index is None else self.index
        if index is None:
            raise TypeError(
                f"{self.path!r} is a {name}, which returns {len(output)} values, and which of them "
                f"is the image feature is not known. Say it: tap=({self.path!r}, index), with an "
                f"index from 0 to {len(output) - 1}; in two-stream blocks the text often comes "
                "first. Or choose a module inside it that returns one tensor."
            )
        if not 0 <= index < len(output):
            raise TypeError(
                f"{self.path!r} returns {len(output)} values, so there is no index {index}. "
                f"Expected 0 to {len(output) - 1}."
            )
        return index


def readable(
    path: str, module: nn.Module, output: object, *, merged: bool = False
) -> list[tuple[Site, torch.Tensor]]:
    """The features of one sample among a module's outputs: the known one, or all of a tuple."""
    known = isinstance(output, torch.Tensor) or type(module).__name__ in FEATURE_INDEX
    if known:
        site = Site(path, merged=merged)
        return [(site, site.read(module, output, 1))]
    if not isinstance(output, (tuple, list)):
        return []
    return [
        (Site(path, place), value)
        for place, value in enumerate(output)
        if isinstance(value, torch.Tensor)
    ]


class Reached(Exception):  # noqa: N818 - a signal, not an error
    """Raised by the hook at a tap, so that nothing after it is computed."""


@contextmanager
def hooked(
    module: nn.Module, hook: Callable[[nn.Module, Any], Any], *, first: bool = False
) -> Iterator[None]:
    """Context in which `hook(module, output)` sees (and may replace) this thread's outputs.

    It comes after the hooks that are there already, or before them with `first`.
    """
    owner = threading.get_ident()

    def call(module: nn.Module, _inputs: object, output: object) -> Any:
        # Another thread's pass through the same network is none of our business.
        return hook(module, output) if threading.get_ident() == owner else None

    handle = module.register_forward_hook(call, prepend=first)
    try:
        yield
    finally:
        handle.remove()


def pooled(feature: torch.Tensor) -> torch.Tensor:
    """The mean over space: of [B, C, H, W] over H and W, of tokens [B, S, C] over S.

    Raises:
        ValueError: the feature has no space to pool.
    """
    if feature.dim() == 4:
        return feature.mean((2, 3))
    if feature.dim() == 3:
        return feature.mean(1)
    raise ValueError(
        f"Expected a feature [B, C, H, W] or [B, S, C] to pool over space, got "
        f"{list(feature.shape)}. Leave pool out for this tap."
    )
