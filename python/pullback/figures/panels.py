"""Pages of panels side by side: what the figures of analyses have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from pullback.figures.curves import draw_curve, style_of
from pullback.figures.style import FAINT, LABEL, TITLE

#: A mean with its interval: "mean", "low" and "high".
Interval = Mapping[str, float]

_WIDTH, _HEIGHT = 4.1, 3.4
_MOST_TICKS = 10


def page(title: str, count: int) -> tuple[Figure, list[Axes]]:
    """An empty figure of panels side by side; call it inside `rc_context(STYLE)`."""
    layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.06)
    figure = Figure(figsize=(_WIDTH * count, _HEIGHT), layout=layout)
    figure.suptitle(title, fontsize=TITLE, x=0.1 / (_WIDTH * count), ha="left")
    return figure, list(figure.subplots(1, count, squeeze=False)[0])


def dress_panel(axes: Axes, rule: str, labels: tuple[str, str]) -> None:
    """Give a panel its looks, the line above it, and the labels of x and y."""
    axes.set_title(rule, fontsize=LABEL, color=FAINT, loc="left")
    axes.set_xlabel(labels[0], fontsize=LABEL)
    axes.set_ylabel(labels[1], fontsize=LABEL)
    axes.tick_params(labelsize=LABEL, which="both", width=0.6, color=FAINT)
    axes.grid(True, linewidth=0.4, color="#e4e4e4")
    axes.spines[["top", "right"]].set_visible(False)


def curve(
    axes: Axes, x: Sequence[float], values: Sequence[Interval], number: int, label: str, **line: Any
) -> None:
    """A line of means in a band of their intervals, in the colour of its number."""
    colours = {**style_of(number), **line}
    low, mean, high = (np.array([one[name] for one in values]) for name in ("low", "mean", "high"))
    draw_curve(axes, np.asarray(x), low, mean, high, label=label, **colours)


def shades(count: int) -> np.ndarray:
    """Colours of so many timesteps, from noise to data."""
    return matplotlib.colormaps["viridis"](np.linspace(0.0, 0.85, count))  # type: ignore[no-any-return]


def level(axes: Axes, value: float, label: str) -> None:
    """A dashed line of what is compared with, such as chance."""
    axes.axhline(value, color=FAINT, linewidth=1.0, linestyle=(0, (4, 2)), label=label)


def legend(axes: Axes, **where: Any) -> None:
    """The names of the lines, if any."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=LABEL - 1, frameon=False, **where)


def noise_to_data(axes: Axes, times: Sequence[int]) -> None:
    """Time on the x-axis, from noise on the left to data on the right."""
    axes.set_xticks(times[:: -(-len(times) // _MOST_TICKS)])
    axes.invert_xaxis()
