"""Restricting a displacement to a region of the image."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F


def checked(mask: torch.Tensor) -> torch.Tensor:
    """A mask as float32 `[H, W]` from 0 to 1.

    Raises:
        TypeError: it is no tensor.
        ValueError: it has other sizes, or other numbers.
    """
    if not isinstance(mask, torch.Tensor):
        raise TypeError(
            f"Expected the mask as a tensor [H, W], got {type(mask).__name__}. Convert it with "
            "torch.as_tensor."
        )
    values = mask.float()
    if values.dim() != 2 or not values.numel():
        raise ValueError(f"Expected a mask [H, W], got shape {list(mask.shape)}.")
    if not bool(torch.isfinite(values).all()) or values.min() < 0 or values.max() > 1:
        raise ValueError(
            "Expected a mask of numbers from 0 (keep) to 1 (edit), got others. An image of 0 to "
            "255 must be divided by 255."
        )
    return values


def on_latents(mask: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """A mask for latents `[..., H, W]` of one sample.

    A larger mask, such as of the image, has to be a whole multiple; it is averaged.

    Args:
        mask: `[H, W]` of numbers from 0 (keep) to 1 (edit).
        shape: of one sample of the latents.

    Returns:
        `[H, W]` of the latents.

    Raises:
        ValueError: it does not fit.
    """
    return _fitted(mask, shape[-2], shape[-1], f"latents {list(shape)}")


def on_feature(
    mask: torch.Tensor, shape: tuple[int, ...], latents: tuple[int, ...]
) -> torch.Tensor:
    """A mask for a feature of one sample: `[C, h, w]` or tokens `[S, C]`, as it broadcasts.

    Args:
        mask: `[H, W]`, of the size of the latents or a multiple.
        shape: of the feature of one sample.
        latents: the shape of one sample of the latents.

    Raises:
        ValueError: the places of the feature cannot be told.
    """
    of_latents = on_latents(mask, latents)
    height, width = latents[-2:]
    if len(shape) == 3:
        return _resized(of_latents, shape[1], shape[2])
    side = math.isqrt(height * width // max(shape[0], 1)) if len(shape) == 2 else 0
    if len(shape) == 2 and side and (height // side) * (width // side) == shape[0]:
        return _resized(of_latents, height // side, width // side).reshape(-1, 1)
    raise ValueError(
        f"Expected a feature [C, h, w], or tokens [S, C] of a grid over latents {list(latents)}, "
        f"to mask, got {list(shape)}. Leave the mask out, or choose a direction in the latents."
    )


def _fitted(mask: torch.Tensor, height: int, width: int, what: str) -> torch.Tensor:
    rows, columns = mask.shape
    if rows % height or columns % width or rows // height != columns // width:
        raise ValueError(
            f"Expected a mask of {height} x {width}, or a whole multiple of that, for {what}, got "
            f"{rows} x {columns}. Resize it to the image."
        )
    return _resized(mask, height, width)


def _resized(mask: torch.Tensor, height: int, width: int) -> torch.Tensor:
    return F.adaptive_avg_pool2d(mask[None, None], (height, width))[0, 0]
