"""Signals along one axis, such as sound, as lines on a sheet: one below the other by channel."""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.patches import Rectangle

from pullback.figures.style import INK

#: More channels than that are a block of ink, and shown as the rows of a picture.
_MOST = 8

_GROUND, _ZERO = "#f4f4f4", "#c9c9c9"
_ABOVE, _BELOW = "#c13639", "#2f79b5"  # of the map of colours that directions of images have

_DENSE = 200  # positions from which on a line is drawn finer


def is_signal(tensor: torch.Tensor) -> bool:
    """Whether one sample is a signal `[C, L]` or `[L]`, of few channels."""
    return tensor.dim() == 1 or (tensor.dim() == 2 and len(tensor) <= _MOST)


def draw_signal(
    axes: Axes,
    corner: tuple[float, float],
    size: tuple[float, float],
    signal: torch.Tensor,
    limit: float,
    *,
    filled: bool = False,
) -> None:
    """Draw a signal `[C, L]` or `[L]` into a tile, each channel about its own line at zero.

    Args:
        axes: of a sheet, whose y runs downwards.
        corner: the upper left one of the tile, in inches.
        size: width and height of the tile, in inches.
        signal: its values.
        limit: the magnitude that reaches the edge of a channel's share of the tile.
        filled: whether what lies above zero is filled with red and what lies below with blue.
    """
    values = signal.detach().float().cpu().reshape(-1, signal.shape[-1]).numpy()
    (left, top), (width, height) = corner, size
    share = height / len(values)
    axes.add_patch(Rectangle(corner, width, height, facecolor=_GROUND, linewidth=0, zorder=0))
    margin = 0.03 * width
    x = np.linspace(left + margin, left + width - margin, values.shape[1])
    thin = 0.35 if values.shape[1] > _DENSE else 0.65
    for channel, row in enumerate(values):
        zero = top + (channel + 0.5) * share
        y = zero - row / (limit or 1.0) * 0.46 * share
        axes.plot(
            [left, left + width], [zero, zero], color=_ZERO, linewidth=0.4, zorder=1,
            solid_capstyle="butt",
        )  # fmt: skip
        if filled:
            for colour, sign in ((_ABOVE, row > 0), (_BELOW, row < 0)):
                axes.fill_between(
                    x, zero, y, where=sign, interpolate=True, linewidth=0, zorder=2,
                    facecolor=to_rgba(colour, 0.55),
                )  # fmt: skip
        axes.plot(x, y, color=INK, linewidth=thin, zorder=3, solid_joinstyle="round")
