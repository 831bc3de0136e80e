"""How figures look, and how they are saved."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from PIL import Image

from pullback._files import replacing

#: Resolution of saved figures, dots per inch.
DPI = 200

#: Sizes of texts, in points.
TITLE, LABEL, SMALL = 10.0, 8.0, 7.0

#: Colours of texts and lines.
INK, FAINT = "#1a1a1a", "#6b6b6b"

#: Colours of lines, in their order; with whatever colour vision they can be told apart.
COLOURS = ("#2f79b5", "#d1661f", "#009e73", "#cc79a7", "#1a1a1a", "#d9a800")

#: For `matplotlib.rc_context`, which types the keys one by one.
STYLE: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "mathtext.fontset": "dejavusans",
    "axes.edgecolor": FAINT,
    "axes.linewidth": 0.6,
    "text.color": INK,
}

_FILM_DPI, _FILM_SECONDS = 120, 2.0


def save(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a figure as PNG; the file appears complete or not at all."""
    with replacing(Path(path)) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI, facecolor="white")


def save_film(figures: Sequence[Figure], path: str | os.PathLike[str]) -> None:
    """Write figures of one size as a GIF that runs there and back for ever, two seconds each way.

    The file appears complete or not at all.

    Raises:
        ValueError: there are no figures.
    """
    if not figures:
        raise ValueError("Expected at least one figure for a film, got none.")
    frames = [_pixels(figure) for figure in (*figures, *figures[-2:0:-1])]
    each = round(1000 * _FILM_SECONDS / len(figures))
    with replacing(Path(path)) as temporary:
        frames[0].save(
            temporary, format="GIF", save_all=True, append_images=frames[1:], duration=each, loop=0
        )


def _pixels(figure: Figure) -> Image.Image:
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=_FILM_DPI, facecolor="white")
    return Image.open(drawn).convert("RGB")
