"""Pictures of local bases: directions as images, spectra, and what moving along them does.

Nothing here runs a network: tensors come in, a matplotlib `Figure` comes out (never pyplot's, so
no display is needed and nothing stays open). Images are latents or pixels `[C, H, W]`: three
channels are shown as RGB, one as grey, any other number by their mean.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from pullback._files import replacing

#: Resolution of saved figures, dots per inch.
DPI = 200

_TITLE, _LABEL, _SMALL = 10.0, 8.0, 7.0  # points
_INK, _FAINT = "#1a1a1a", "#6b6b6b"
_TILE, _GAP = 0.42, 0.04  # inches
_NARROWEST = 4.8  # inches: what the texts need
_STYLE: Any = {  # matplotlib types the keys one by one
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "mathtext.fontset": "dejavusans",
    "axes.edgecolor": _FAINT,
    "axes.linewidth": 0.6,
    "text.color": _INK,
}


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


def save(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a figure as PNG; the file appears complete or not at all."""
    with replacing(Path(path)) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI, facecolor="white")


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
        t: the timestep.
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
    step, caption = _TILE * 1.5, 0.17
    size, pitch = step - _GAP, step + caption
    left, top, gutter = 0.15, 0.93, 0.12
    width = left + (2 + columns) * step + gutter + 0.15
    with _sheet(max(width, _NARROWEST), top + rows * pitch + 0.06) as sheet:
        sheet.text(left, 0.26, f"Samples and their leading directions at t = {t}", size=_TITLE)
        sheet.text(
            left, 0.48, "Each direction is on its own scale, symmetric about zero.", color=_FAINT
        )
        x_of = [
            left + column * step + (gutter if column > 1 else 0) for column in range(2 + columns)
        ]
        heads = ["$x_t$", "denoised", *(f"$v_{{{i + 1}}}$" for i in range(columns))]
        for x, head in zip(x_of, heads, strict=True):
            sheet.text(x + size / 2, 0.83, head, ha="center")
        for row in range(rows):
            y = top + row * pitch
            sheet.picture(x_of[0], y, size, latents[row], noisy=True)
            sheet.picture(x_of[1], y, size, images[row])
            for i in range(columns):
                sheet.direction(x_of[2 + i], y, size, v[row, i])
                label = ("$s$ = " if i == 0 else "") + _three_digits(s[row, i])
                sheet.text(
                    x_of[2 + i] + size / 2, y + size + 0.125, label, size=_SMALL, ha="center",
                    color=_FAINT,
                )  # fmt: skip
    return sheet.figure


def spectrum(values: Mapping[int, torch.Tensor]) -> Figure:
    """Singular values over the largest one: median and quartiles of the samples, per timestep.

    Args:
        values: s `[B, k]` by timestep; zeros (beyond the numerical rank) are left out.
    """
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(5.2, 3.5), layout="constrained")
        axes = figure.add_subplot()
        colours = matplotlib.colormaps["viridis"](np.linspace(0.0, 0.85, len(values)))
        samples, longest, lowest = 0, 1, 1.0
        for (t, s), colour in zip(sorted(values.items(), reverse=True), colours, strict=True):
            s = s.double().cpu()
            ratio = torch.where(s > 0, s / s[:, :1], torch.nan)
            low, median, high = torch.nanquantile(
                ratio, torch.tensor([0.25, 0.5, 0.75], dtype=ratio.dtype), dim=0
            ).numpy()
            index = np.arange(1, s.shape[1] + 1)
            axes.fill_between(index, low, high, color=colour, alpha=0.18, linewidth=0)
            axes.plot(
                index, median, color=colour, linewidth=1.4, marker="o", markersize=3,
                label=f"t = {t}",
            )  # fmt: skip
            samples, longest = max(samples, len(s)), max(longest, s.shape[1])
            lowest = np.nanmin([lowest, *low])
        axes.set_yscale("log")
        subs = (1.0, 2.0, 4.0, 6.0, 8.0) if lowest > 0.05 else (1.0,)
        axes.yaxis.set_major_locator(LogLocator(subs=subs))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("index $i$", fontsize=_LABEL)
        axes.set_ylabel("$s_i\\,/\\,s_1$", fontsize=_LABEL)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlim(0.7, longest + 0.3)
        axes.tick_params(labelsize=_LABEL, which="both", width=0.6, color=_FAINT)
        axes.grid(True, linewidth=0.4, color="#e4e4e4")
        axes.legend(fontsize=_LABEL, frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
        band = f"Median and quartiles of {samples} samples" if samples > 1 else "One sample"
        axes.set_title("Singular spectrum per timestep", fontsize=_TITLE, loc="left", pad=20)
        axes.text(0, 1.03, band, fontsize=_LABEL, color=_FAINT, transform=axes.transAxes)
    return figure


def strips(walks: Sequence[Walk], title: str) -> Figure:
    """One sample, moved along its directions at each timestep and then denoised.

    Args:
        walks: the sample at each timestep, in the order in which they are shown.
        title: what the sample is.
    """
    across = min(2, len(walks))
    down = -(-len(walks) // across)
    k, steps = walks[0].moved.shape[:2]
    pitch = _TILE + _GAP
    left, label, header, between = 0.15, 0.85, 0.3, 0.3
    block_width = label + steps * pitch
    block_height = header + k * pitch + 0.34
    width = left + across * block_width + (across - 1) * between + 0.15
    top = 0.6
    with _sheet(max(width, _NARROWEST), top + down * block_height) as sheet:
        sheet.text(left, 0.26, title, size=_TITLE)
        sheet.text(left, 0.5, _rule(), size=_LABEL, color=_FAINT)
        for number, walk in enumerate(walks):
            x = left + (number % across) * (block_width + between)
            y = top + (number // across) * block_height
            sheet.text(x + label, y + 0.22, f"t = {walk.t}", weight="bold")
            for i in range(k):
                middle = y + header + i * pitch + _TILE / 2
                sheet.text(x, middle, f"$v_{{{i + 1}}}$", va="center")
                value = ("$s$ = " if i == 0 else "") + _three_digits(walk.s[i])
                sheet.text(
                    x + label - 0.08, middle, value, size=_SMALL, va="center", ha="right",
                    color=_FAINT,
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
    pitch, left, label, gutter, top, between = _TILE + _GAP, 0.15, 0.62, 0.32, 0.94, 0.16
    x_v = left + label + pitch + 0.08
    x_moved = [x_v + heads * pitch + gutter + i * (steps * pitch + gutter) for i in range(shown)]
    width = x_moved[-1] + steps * pitch + 0.15
    rows = sum(len(walks) for walks in samples)
    height = top + rows * pitch + (len(samples) - 1) * between + 0.3
    with _sheet(max(width, _NARROWEST), height) as sheet:
        sheet.text(left, 0.26, title, size=_TITLE)
        sheet.text(left, 0.5, _rule(), color=_FAINT)
        head = 0.83
        sheet.text(left + label + _TILE / 2, head, "$x_t$", ha="center")
        for i in range(heads):
            sheet.text(x_v + i * pitch + _TILE / 2, head, f"$v_{{{i + 1}}}$", ha="center")
        for i, x in enumerate(x_moved):
            sheet.text(
                x + steps * pitch / 2, head, f"moved along $v_{{{i + 1}}}$, denoised", ha="center"
            )
        y = top
        for walks in samples:
            for walk in walks:
                sheet.text(left, y + _TILE / 2, f"t = {walk.t}", va="center")
                sheet.picture(left + label, y, _TILE, walk.latent, noisy=True)
                for i in range(heads):
                    sheet.direction(x_v + i * pitch, y, _TILE, walk.v[i])
                for i, x in enumerate(x_moved):
                    sheet.row(x, y, walk.moved[i], steps // 2)
                y += pitch
            y += between
        for x in x_moved:
            sheet.scale(x, y - between + 0.1, samples[0][0].lengths)
    return sheet.figure


def _three_digits(value: torch.Tensor) -> str:
    return f"{float(value):#.3g}".rstrip(".")


def _rule() -> str:
    return "Each image: $x_t + a\\,\\|x_t\\|\\,v_i$, denoised; the framed one is not moved."


class _sheet:  # noqa: N801 - reads as what it is, a context manager
    """A white sheet with one axes in inches from the upper left corner."""

    def __init__(self, width: float, height: float) -> None:
        self.width, self.height = width, height
        self._style = matplotlib.rc_context(_STYLE)

    def __enter__(self) -> _sheet:
        self._style.__enter__()
        self.figure = Figure(figsize=(self.width, self.height))
        self.axes: Axes = self.figure.add_axes((0.0, 0.0, 1.0, 1.0))
        self.axes.set_axis_off()
        return self

    def __exit__(self, *details: object) -> None:
        # Every image resets the limits, so they are set when all are drawn.
        self.axes.set_xlim(0, self.width)
        self.axes.set_ylim(self.height, 0)
        self._style.__exit__(None, None, None)

    def text(
        self, x: float, y: float, text: str, *, size: float = _LABEL, **options: object
    ) -> None:
        """Text whose baseline starts at (x, y), unless aligned otherwise."""
        self.axes.text(x, y, text, fontsize=size, **options)  # type: ignore[arg-type]

    def picture(
        self, x: float, y: float, size: float, image: torch.Tensor, noisy: bool = False
    ) -> None:
        """An image [C, H, W] in [-1, 1], or a noisy latent on its own scale."""
        pixels = _pixels(image)
        limit = float(np.abs(pixels).max()) if noisy else 1.0
        pixels = np.clip(pixels / (limit or 1.0) / 2 + 0.5, 0.0, 1.0)
        self._draw(x, y, size, pixels, "gray", (0.0, 1.0))

    def direction(self, x: float, y: float, size: float, v: torch.Tensor) -> None:
        """A direction [C, H, W] on a scale symmetric about zero, which is white (grey in RGB)."""
        pixels = _pixels(v)
        limit = float(np.abs(pixels).max()) or 1.0
        if pixels.ndim == 3:
            pixels = pixels / limit / 2 + 0.5
        self._draw(x, y, size, pixels, "RdBu_r", (-limit, limit))

    def row(self, x: float, y: float, images: torch.Tensor, middle: int) -> None:
        """Images [a, C, H, W] side by side, the one that was not moved with a frame."""
        for column, image in enumerate(images):
            place = x + column * (_TILE + _GAP)
            self.picture(place, y, _TILE, image)
            if column == middle:
                corner = (place - _GAP / 4, y - _GAP / 4)
                side = _TILE + _GAP / 2
                self.axes.add_patch(
                    Rectangle(corner, side, side, fill=False, edgecolor="#d1661f", linewidth=1.1)
                )

    def scale(self, x: float, y: float, lengths: torch.Tensor) -> None:
        """The step lengths under the columns of a strip."""
        self.text(x - 0.08, y, "$a$ =", size=_SMALL, ha="right", color=_FAINT)
        for column, length in enumerate(lengths.tolist()):
            text = "0" if abs(length) < 5e-3 else f"{length:+.2f}".replace("-", "−")
            place = x + column * (_TILE + _GAP) + _TILE / 2
            self.text(place, y, text, size=_SMALL, ha="center", color=_FAINT)

    def _draw(
        self,
        x: float,
        y: float,
        size: float,
        pixels: np.ndarray,
        cmap: str,
        limits: tuple[float, float],
    ) -> None:
        height, width = pixels.shape[:2]
        # Images that are not square keep their shape, in the middle of their square.
        w, h = size * min(1.0, width / height), size * min(1.0, height / width)
        x, y = x + (size - w) / 2, y + (size - h) / 2
        self.axes.imshow(
            pixels, cmap=cmap, vmin=limits[0], vmax=limits[1], aspect="auto",
            extent=(x, x + w, y + h, y), interpolation="nearest",
        )  # fmt: skip


def _pixels(image: torch.Tensor) -> np.ndarray:
    """[H, W, 3] for three channels, else [H, W]: the one channel or the mean of all."""
    image = image.detach().float().cpu()
    if image.shape[0] == 3:
        return image.permute(1, 2, 0).numpy()
    return image.mean(0).numpy()
