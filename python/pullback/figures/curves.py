"""What pages of curves have in common: their axes, and lines in bands."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes

from pullback.figures.style import COLOURS, FAINT, LABEL, TITLE

#: Where there are more lines than colours, the colours start again with other dashes.
_DASHES: tuple[Any, ...] = ("-", (0, (3, 1.6)), (0, (1, 1.2)), (0, (4, 1.4, 1, 1.4)))


def draw_curve(
    axes: Axes,
    x: np.ndarray,
    low: np.ndarray,
    middle: np.ndarray,
    high: np.ndarray,
    colour: Any,
    label: str,
    **line: Any,
) -> None:
    """Draw a line with points in a band, which has no width where there is one sample.

    Args:
        axes: to draw on.
        x: where, `[N]`.
        low: of the band, `[N]`.
        middle: the line, `[N]`.
        high: of the band, `[N]`.
        colour: of both.
        label: in the legend.
        **line: what else matplotlib takes for lines.
    """
    if (high > low).any():
        axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.plot(
        x, middle, color=colour, linewidth=1.4, marker="o", markersize=3, label=label, **line
    )  # fmt: skip


def style_of(number: int) -> dict[str, Any]:
    """Colour and dashes of one of many lines, from 0, as `draw_curve` takes them."""
    again, place = divmod(number, len(COLOURS))
    return {"colour": COLOURS[place], "linestyle": _DASHES[again % len(_DASHES)]}


def dress(axes: Axes, title: str, rule: str, labels: tuple[str, str]) -> None:
    """Give axes the looks of all curves.

    Args:
        axes: with their curves, limits and legend.
        title: of the page.
        rule: what is shown, a line below the title.
        labels: of x and of y.
    """
    axes.set_xlabel(labels[0], fontsize=LABEL)
    axes.set_ylabel(labels[1], fontsize=LABEL)
    axes.tick_params(labelsize=LABEL, which="both", width=0.6, color=FAINT)
    axes.grid(True, linewidth=0.4, color="#e4e4e4")
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(title, fontsize=TITLE, loc="left", pad=20)
    axes.text(0, 1.03, rule, fontsize=LABEL, color=FAINT, transform=axes.transAxes)
