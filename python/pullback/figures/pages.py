"""Pages of images: directions, and what moving along them does.

Nothing here runs a network: tensors come in, a matplotlib `Figure` comes out (never pyplot's, so
no display is needed and nothing stays open).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from matplotlib.figure import Figure

from pullback.figures.lines import is_signal
from pullback.figures.sheet import GAP, TILE, Sheet, wide_of
from pullback.figures.style import FAINT, LABEL, SMALL, TITLE


@dataclass(frozen=True)
class Walk:
    """One sample at one timestep, and what it becomes when it is moved along its directions.

    Attributes:
        t: timestep, in the scheduler's training units.
        latent: x_t, `[C, H, W]`.
        image: x_t denoised as it stands, `[C, H, W]`.
        v: leading directions, `[k, C, H, W]`, unit norm.
        s: their singular values, `[k]`.
        lengths: steps along a direction in units of ‖x_t‖, ascending, `[a]`.
        moved: x_t + length ‖x_t‖ v_i denoised, `[k, a, C, H, W]`.
    """

    t: int
    latent: torch.Tensor
    image: torch.Tensor
    v: torch.Tensor
    s: torch.Tensor
    lengths: torch.Tensor
    moved: torch.Tensor


def directions(
    t: int,
    latents: torch.Tensor,
    images: torch.Tensor,
    v: torch.Tensor,
    s: torch.Tensor,
    *,
    samples: int = 8,
    count: int = 8,
) -> Figure:
    """Samples beside their leading directions at one timestep.

    Args:
        t: the timestep, in training units.
        latents: x_t, `[B, C, H, W]`.
        images: x_t denoised, `[B, C, H, W]`.
        v: directions, `[B, k, C, H, W]`.
        s: singular values, `[B, k]`.
        samples: rows at most.
        count: directions in a row at most.

    Returns:
        A figure with one row per sample: x_t, its image, and v_1, v_2, … on a diverging scale
        that is symmetric about zero, each with its singular value.
    """
    rows, columns = min(samples, len(latents)), min(count, v.shape[1])
    size, caption, wide = TILE * 1.5 - GAP, 0.17, wide_of(latents[0])
    across, step, pitch = size * wide, size * wide + GAP, size + GAP + caption
    left, top, gutter = 0.15, 0.93, 0.12
    width = left + (2 + columns) * step + gutter + 0.15
    with Sheet(width, top + rows * pitch + 0.06, wide) as sheet:
        sheet.text(left, 0.26, f"Samples and their leading directions at t = {t}", size=TITLE)
        scale = "Each direction is on its own scale, symmetric about zero."
        sheet.text(left, 0.48, scale + _channels(latents[0]), color=FAINT)
        x_of = [
            left + column * step + (gutter if column > 1 else 0) for column in range(2 + columns)
        ]
        heads = ["$x_t$", "denoised", *(f"$v_{{{i + 1}}}$" for i in range(columns))]
        for x, head in zip(x_of, heads, strict=True):
            sheet.text(x + across / 2, 0.83, head, ha="center")
        for row in range(rows):
            y = top + row * pitch
            sheet.picture(x_of[0], y, size, latents[row], noisy=True)
            sheet.picture(x_of[1], y, size, images[row])
            for i in range(columns):
                sheet.direction(x_of[2 + i], y, size, v[row, i])
                label = ("$s$ = " if i == 0 else "") + _three_digits(s[row, i])
                sheet.text(
                    x_of[2 + i] + across / 2, y + size + 0.125, label, size=SMALL, ha="center",
                    color=FAINT,
                )  # fmt: skip
    return sheet.figure


def strips(walks: Sequence[Walk], title: str) -> Figure:
    """One sample, moved along its directions at each timestep and then denoised.

    Args:
        walks: the sample at each timestep, in the order in which they are shown.
        title: what the sample is.
    """
    across = min(2, len(walks))
    down = -(-len(walks) // across)
    k, steps = walks[0].moved.shape[:2]
    pitch, wide = TILE + GAP, wide_of(walks[0].latent)
    left, label, header, between = 0.15, 0.85, 0.3, 0.3
    block_width = label + steps * (TILE * wide + GAP)
    block_height = header + k * pitch + 0.34
    width = left + across * block_width + (across - 1) * between + 0.15
    top = 0.6
    with Sheet(width, top + down * block_height, wide) as sheet:
        sheet.text(left, 0.26, title, size=TITLE)
        sheet.text(left, 0.5, _rule(walks[0].latent), size=LABEL, color=FAINT)
        for number, walk in enumerate(walks):
            x = left + (number % across) * (block_width + between)
            y = top + (number // across) * block_height
            sheet.text(x + label, y + 0.22, f"t = {walk.t}", weight="bold")
            for i in range(k):
                middle = y + header + i * pitch + TILE / 2
                sheet.text(x, middle, f"$v_{{{i + 1}}}$", va="center")
                value = ("$s$ = " if i == 0 else "") + _three_digits(walk.s[i])
                sheet.text(
                    x + label - 0.08, middle, value, size=SMALL, va="center", ha="right",
                    color=FAINT,
                )  # fmt: skip
                sheet.row(x + label, y + header + i * pitch, walk.moved[i], steps // 2)
            foot = y + header + k * pitch + 0.12
            sheet.scale(x + label, foot, walk.lengths)
    return sheet.figure


def overview(samples: Sequence[Sequence[Walk]], title: str) -> Figure:
    """Samples, directions and strips in one wide picture: a row per timestep.

    Args:
        samples: per sample its walks, one per timestep; all samples at the same timesteps.
        title: what is shown.
    """
    shown = min(2, samples[0][0].moved.shape[0])
    heads = min(3, samples[0][0].v.shape[0])
    steps = samples[0][0].moved.shape[1]
    left, label, gutter, top, between = 0.15, 0.62, 0.32, 0.94, 0.16
    wide = wide_of(samples[0][0].latent)
    tile, pitch = TILE * wide, TILE * wide + GAP
    x_v = left + label + pitch + 0.08
    x_moved = [x_v + heads * pitch + gutter + i * (steps * pitch + gutter) for i in range(shown)]
    width = x_moved[-1] + steps * pitch + 0.15
    rows = sum(len(walks) for walks in samples)
    height = top + rows * (TILE + GAP) + (len(samples) - 1) * between + 0.3
    with Sheet(width, height, wide) as sheet:
        sheet.text(left, 0.26, title, size=TITLE)
        sheet.text(left, 0.5, _rule(samples[0][0].latent), color=FAINT)
        head = 0.83
        sheet.text(left + label + tile / 2, head, "$x_t$", ha="center")
        for i in range(heads):
            sheet.text(x_v + i * pitch + tile / 2, head, f"$v_{{{i + 1}}}$", ha="center")
        for i, x in enumerate(x_moved):
            sheet.text(
                x + steps * pitch / 2, head, f"moved along $v_{{{i + 1}}}$, denoised", ha="center"
            )
        y = top
        for walks in samples:
            for walk in walks:
                sheet.text(left, y + TILE / 2, f"t = {walk.t}", va="center")
                sheet.picture(left + label, y, TILE, walk.latent, noisy=True)
                for i in range(heads):
                    sheet.direction(x_v + i * pitch, y, TILE, walk.v[i])
                for i, x in enumerate(x_moved):
                    sheet.row(x, y, walk.moved[i], steps // 2)
                y += TILE + GAP
            y += between
        for x in x_moved:
            sheet.scale(x, y - between + 0.1, samples[0][0].lengths)
    return sheet.figure


def _three_digits(value: torch.Tensor) -> str:
    return f"{float(value):#.3g}".rstrip(".")


def _rule(latent: torch.Tensor) -> str:
    what = "image" if latent.dim() > 2 else "signal"
    return (
        f"Each {what}: $x_t + a\\,\\|x_t\\|\\,v_i$, denoised; the framed one is not moved."
        f"{_channels(latent)}"
    )


def _channels(latent: torch.Tensor) -> str:
    """Where the channels of a signal [C, L] are, as a sentence; nothing of an image's."""
    if latent.dim() != 2:
        return ""
    return f" One {'line' if is_signal(latent) else 'row'} for each channel."
