"""Curves of what directions do, from timestep to timestep.

Nothing here runs a network: numbers come in, a matplotlib `Figure` comes out.
"""

from __future__ import annotations

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from pullback.directions import GainOverTime
from pullback.figures.curves import draw_curve, dress, style_of
from pullback.figures.style import LABEL, STYLE
from pullback.figures.table import named, width_of

_OUTPUTS = {"noise": r"\varepsilon", "denoised": r"\hat{x}_0", "score": r"\nabla\log p"}
_VARIABLES = {"h": "h", "x": "x_t"}

_FEW, _DECADES = 10.0, 200.0  # from which ratio on a scale is logarithmic, and has powers of ten
_LEAST = 1e-5  # of the highest gain: what is not above counts as zero


def gain_curves(gain: GainOverTime, *, title: str | None = None) -> Figure:
    """How far the output moves with a unit step along directions, a line for each, over time.

    Args:
        gain: as `pullback.directions.gain_over_time` measures it.
        title: of the page.

    Returns:
        A figure with the median over the samples, in a band of the quartiles where there are
        several. Time runs from noise, on the left, to data. Where gains differ more than tenfold
        their scale is logarithmic, and linear next to zero where one of them is zero.
    """
    samples = gain.gain.shape[2]
    labels = [named(name) for name in gain.names]
    bands, times = gain.quartiles().numpy(), np.asarray(gain.times)
    with matplotlib.rc_context(STYLE):
        width = 5.2 + max(map(width_of, labels))
        height = max(3.5, 0.8 + 0.17 * len(labels))
        figure = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.1))
        axes = figure.add_subplot()
        for number, label in enumerate(labels):
            low, middle, high = bands[:, number]
            draw_curve(axes, times, low, middle, high, label=label, **style_of(number))
        _scale(axes, bands)
        axes.invert_xaxis()
        if len(gain.times) > 1:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        else:
            axes.set_xticks(gain.times)
        axes.legend(
            fontsize=LABEL, frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1.0),
            borderaxespad=0.0, handlelength=3.0,
        )  # fmt: skip
        rule = f"Median and quartiles of {samples} samples" if samples > 1 else "One sample"
        output, variable = _OUTPUTS[gain.kind], _VARIABLES[gain.space]
        dress(
            axes, title or "Gains of directions over time", rule,
            ("timestep t", rf"gain $\|\partial {output}\,/\,\partial {variable}\ v\|$"),
        )  # fmt: skip
    return figure


def _scale(axes: Axes, bands: np.ndarray) -> None:
    """The scale of gains `[3, D, T]`."""
    high = float(bands.max())
    seen = bands[bands > _LEAST * high]
    low = float(seen.min()) if seen.size else 0.0
    if high <= _FEW * float(bands.min()) or not low:
        axes.set_ylim(0, 1.05 * high or 1.0)
        return
    if seen.size == bands.size:
        axes.set_yscale("log")
    else:
        axes.set_yscale("symlog", linthresh=low)
        axes.set_ylim(bottom=0)
    if seen.size == bands.size and high < _DECADES * low:
        # There would be one number on the axis, or none.
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_locator(NullLocator())
