"""Singular values as curves."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from pullback.figures.curves import draw_curve, dress
from pullback.figures.style import LABEL, STYLE


def spectrum(values: Mapping[int, torch.Tensor]) -> Figure:
    """Singular values over the largest one: median and quartiles of the samples, per timestep.

    Args:
        values: s `[B, k]` by timestep; zeros (beyond the numerical rank) are left out.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.2, 3.5), layout="constrained")
        axes = figure.add_subplot()
        colours = matplotlib.colormaps["viridis"](np.linspace(0.0, 0.85, len(values)))
        samples, longest, lowest = 0, 1, 1.0
        for (t, s), colour in zip(sorted(values.items(), reverse=True), colours, strict=True):
            s = s.double().cpu()
            ratio = torch.where(s > 0, s / s[:, :1], torch.nan)
            low, median, high = torch.nanquantile(
                ratio,
                torch.tensor([0.25, 0.5, 0.75], dtype=ratio.dtype, device=ratio.device),
                dim=0,
            ).numpy()
            index = np.arange(1, s.shape[1] + 1)
            draw_curve(axes, index, low, median, high, colour, f"t = {t}")
            samples, longest = max(samples, len(s)), max(longest, s.shape[1])
            lowest = np.nanmin([lowest, *low])
        axes.set_yscale("log")
        subs = (1.0, 2.0, 4.0, 6.0, 8.0) if lowest > 0.05 else (1.0,)
        axes.yaxis.set_major_locator(LogLocator(subs=subs))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlim(0.7, longest + 0.3)
        axes.legend(fontsize=LABEL, frameon=False)
        band = f"Median and quartiles of {samples} samples" if samples > 1 else "One sample"
        labels = ("index $i$", "$s_i\\,/\\,s_1$")
        dress(axes, "Singular spectrum per timestep", band, labels)
    return figure
