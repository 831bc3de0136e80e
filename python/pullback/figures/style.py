"""How figures look, and how they are saved."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from pullback._files import replacing

#: Resolution of saved figures, dots per inch.
DPI = 200

#: Sizes of texts, in points.
TITLE, LABEL, SMALL = 10.0, 8.0, 7.0

#: Colours of texts and lines.
INK, FAINT = "#1a1a1a", "#6b6b6b"

#: For `matplotlib.rc_context`, which types the keys one by one.
STYLE: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "mathtext.fontset": "dejavusans",
    "axes.edgecolor": FAINT,
    "axes.linewidth": 0.6,
    "text.color": INK,
}


def save(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a figure as PNG; the file appears complete or not at all."""
    with replacing(Path(path)) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI, facecolor="white")
