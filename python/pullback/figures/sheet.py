"""A white sheet to set images and texts on, in inches from the upper left corner.

Images are latents or pixels `[C, H, W]`: three channels are shown as RGB, one as grey, any other
number by their mean. What has positions along one axis, such as sound `[C, L]`, is drawn as lines.
"""

from __future__ import annotations

import math

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from pullback.figures.lines import draw_signal, is_signal
from pullback.figures.style import FAINT, LABEL, SMALL, STYLE

#: Height of an image in a row, and the space between two, in inches.
TILE, GAP = 0.42, 0.04

_LONG = 1.6  # width of a tile with lines, over its height

#: Inches that the texts of a page need.
NARROWEST = 4.8


#: Left, top, width and height in inches.
_Place = tuple[float, float, float, float]


class Sheet:
    """A figure while it is drawn on; entering makes it, leaving sets its limits.

    Attributes:
        figure: the matplotlib `Figure`.
        width: in inches, at least what the texts need.
        height: in inches.
        wide: width of a tile over its height.
    """

    def __init__(self, width: float, height: float, wide: float = 1.0) -> None:
        self.width, self.height, self.wide = max(width, NARROWEST), height, wide
        self._style = matplotlib.rc_context(STYLE)

    def __enter__(self) -> Sheet:
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

    @property
    def pitch(self) -> float:
        """From one image in a row to the next, in inches."""
        return TILE * self.wide + GAP

    def text(
        self, x: float, y: float, text: str, *, size: float = LABEL, **options: object
    ) -> None:
        """Text whose baseline starts at (x, y), unless aligned otherwise."""
        self.axes.text(x, y, text, fontsize=size, **options)  # type: ignore[arg-type]

    def picture(
        self, x: float, y: float, size: float, image: torch.Tensor, noisy: bool = False
    ) -> _Place:
        """An image [C, H, W] in [-1, 1], or a noisy latent on its own scale.

        A signal [C, L] that reaches beyond 1 is on its own scale too.

        Returns:
            Where in its tile it stands: left, top, width and height.
        """
        if is_signal(image):
            return self._signal(x, y, size, image, _largest(image, 0.0 if noisy else 1.0))
        pixels = _pixels(image)
        limit = float(np.abs(pixels).max()) if noisy else 1.0
        pixels = np.clip(pixels / (limit or 1.0) / 2 + 0.5, 0.0, 1.0)
        return self._draw(x, y, size, pixels, "gray", (0.0, 1.0), whole=image.dim() < 3)

    def direction(self, x: float, y: float, size: float, v: torch.Tensor) -> None:
        """A direction [C, H, W] on a scale symmetric about zero, which is white (grey in RGB)."""
        if is_signal(v):
            self._signal(x, y, size, v, _largest(v, 0.0), filled=True)
            return
        pixels = _pixels(v)
        limit = float(np.abs(pixels).max()) or 1.0
        if pixels.ndim == 3:
            pixels = pixels / limit / 2 + 0.5
        self._draw(x, y, size, pixels, "RdBu_r", (-limit, limit), whole=v.dim() < 3)

    def row(
        self, x: float, y: float, images: torch.Tensor, middle: int | None, size: float = TILE
    ) -> None:
        """Images [a, C, H, W] side by side, the one that was not moved with a frame.

        Signals [a, C, L] have one scale in common.
        """
        for column, image in enumerate(images):
            place = x + column * (size * self.wide + GAP)
            if is_signal(image):
                left, top, *sides = self._signal(place, y, size, image, _largest(images, 1.0))
            else:
                left, top, *sides = self.picture(place, y, size, image)
            if column == middle:
                corner = (left - GAP / 4, top - GAP / 4)
                sides = [side + GAP / 2 for side in sides]
                self.axes.add_patch(
                    Rectangle(corner, *sides, fill=False, edgecolor="#d1661f", linewidth=1.1)
                )

    def scale(self, x: float, y: float, lengths: torch.Tensor) -> None:
        """The step lengths under the columns of a strip."""
        self.text(x - 0.08, y, "$a$ =", size=SMALL, ha="right", color=FAINT)
        for column, length in enumerate(lengths.tolist()):
            text = "0" if abs(length) < 5e-3 else f"{length:+.2f}".replace("-", "−")
            place = x + column * self.pitch + TILE * self.wide / 2
            self.text(place, y, text, size=SMALL, ha="center", color=FAINT)

    def _signal(
        self, x: float, y: float, size: float, signal: torch.Tensor, limit: float, **how: bool
    ) -> _Place:
        draw_signal(self.axes, (x, y), (size * self.wide, size), signal, limit, **how)
        return x, y, size * self.wide, size

    def _draw(
        self,
        x: float,
        y: float,
        size: float,
        pixels: np.ndarray,
        cmap: str,
        limits: tuple[float, float],
        *,
        whole: bool,
    ) -> _Place:
        height, width = pixels.shape[:2]
        # Images that are not square keep their shape, in the middle of their square; the rows of a
        # signal fill their tile.
        w, h = size * min(1.0, width / height), size * min(1.0, height / width)
        if whole:
            w, h = size * self.wide, size
        else:
            x, y = x + (size - w) / 2, y + (size - h) / 2
        self.axes.imshow(
            pixels, cmap=cmap, vmin=limits[0], vmax=limits[1], aspect="auto",
            extent=(x, x + w, y + h, y), interpolation="nearest",
        )  # fmt: skip
        return x, y, w, h


def wide_of(latent: torch.Tensor) -> float:
    """Width over height of the tiles that latents such as this one `[C, ...]` are shown in."""
    return _LONG if latent.dim() < 3 else 1.0


def _largest(values: torch.Tensor, least: float) -> float:
    """The largest magnitude, but at least so much."""
    return max(least, float(values.detach().float().abs().max()))


def _pixels(image: torch.Tensor) -> np.ndarray:
    """[H, W, 3] for three channels, else [H, W]: the one channel or the mean of all.

    The frames of a video [C, F, H, W] are put side by side in rows; of a signal [C, L] with too
    many channels for lines every channel is a row.
    """
    image = image.detach().float().cpu()
    if image.dim() == 4:
        image = _frames(image)
    elif image.dim() < 3:
        image = image.reshape(1, -1, image.shape[-1])
    if image.shape[0] == 3:
        return image.permute(1, 2, 0).numpy()
    return image.mean(0).numpy()


def _frames(video: torch.Tensor) -> torch.Tensor:
    """The frames of [C, F, H, W] as one image, in about as many rows as columns."""
    channels, frames, height, width = video.shape
    columns = math.ceil(math.sqrt(frames))
    rows = math.ceil(frames / columns)
    padded = video.new_zeros(channels, rows * columns, height, width)
    padded[:, :frames] = video
    grid = padded.reshape(channels, rows, columns, height, width).permute(0, 1, 3, 2, 4)
    return grid.reshape(channels, rows * height, columns * width)
