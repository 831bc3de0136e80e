"""Figures of the papers' analyses, a function for each, of the numbers that `told()` gives.

Nothing here runs a network: what `analyses.json` holds comes in, a matplotlib `Figure` comes out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from textwrap import shorten
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from pullback.figures.panels import (
    curve,
    dress_panel,
    legend,
    level,
    noise_to_data,
    page,
    shades,
)
from pullback.figures.style import SMALL, STYLE

#: What `told()` gives of an analysis.
Told = Mapping[str, Any]

_TIME = "timestep t"
_DISTANCE = "geodesic distance (radians)"
_PER_PANEL = 6  # timesteps that a panel of one line each shows
_NAME = 24  # characters of a prompt beside its point


def draw_analysis(name: str, found: Told) -> Figure:
    """The figure of an analysis.

    Args:
        name: one of "spectra", "frequencies", "samples", "times", "conditions", "classes",
            "ablation", "curvature", "linearity", "ranks" and "radius".
        found: what its `told()` gives, or `analyses.json` holds of it.

    Returns:
        A figure of one panel or two; lines are means over the samples, in bands of their
        intervals.

    Raises:
        ValueError: there is no such analysis.
    """
    if name not in _DRAWN:
        raise ValueError(f"Expected an analysis of {', '.join(_DRAWN)}, got {name!r}.")
    with matplotlib.rc_context(STYLE):
        return _DRAWN[name](found)


def _spectra(found: Told) -> Figure:
    figure, (left, right) = page("Singular spectra over time", 2)
    times = found["times"]
    shown = _spaced(len(times))
    for place, colour in zip(shown, shades(len(shown)), strict=True):
        values = found["ratio"][place]
        index = range(1, len(values) + 1)
        curve(left, index, values, 0, f"t = {times[place]}", colour=colour)
    left.set_yscale("log")
    low = min(one["low"] for place in shown for one in found["ratio"][place])
    subs = (1.0, 2.0, 4.0, 6.0, 8.0) if low > 0.05 else (1.0,)
    left.yaxis.set_major_locator(LogLocator(subs=subs))
    left.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    left.yaxis.set_minor_locator(NullLocator())
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend(left)
    dress_panel(left, "Singular values over the largest", ("index $i$", "$s_i\\,/\\,s_1$"))
    count = len(found["ratio"][0])
    curve(right, times, found["effective"], 0, "effective rank")
    curve(right, times, found["numerical"], 1, f"directions of {found['share']:.0%} of Σs²")
    level(right, count, "isotropic")
    right.set_ylim(0, 1.08 * count)
    noise_to_data(right, times)
    legend(right)
    dress_panel(right, f"How many of {count} directions matter", (_TIME, "directions"))
    return figure


def _frequencies(found: Told) -> Figure:
    figure, (left, right) = page("Frequencies of latent directions over time", 2)
    times = found["times"]
    shown = _spaced(len(times))
    for place, colour in zip(shown, shades(len(shown)), strict=True):
        values = found["density"][place][1:]  # a logarithm has no place for the constant part
        label = f"t = {times[place]}"
        curve(left, found["frequency"][1:], values, 0, label, colour=colour)
    level(left, 1.0, "white noise")
    left.set_xscale("log")
    left.set_yscale("log")
    ticks = [one for one in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5) if one > found["frequency"][1] / 2]
    left.set_xticks(ticks, [f"{one:g}" for one in ticks])
    left.xaxis.set_minor_locator(NullLocator())
    legend(left)
    dress_panel(
        left, "Power spectral density of v", ("frequency (cycles per pixel)", "power, noise = 1")
    )
    curve(right, times, found["centroid"], 0, "directions")
    level(right, found["noise"], "isotropic noise")
    highest = max(found["noise"], *(one["high"] for one in found["centroid"]))
    right.set_ylim(0, 1.1 * highest)
    noise_to_data(right, times)
    legend(right)
    dress_panel(right, "Coarse or fine", (_TIME, "mean frequency (cycles per pixel)"))
    return figure


def _samples(found: Told) -> Figure:
    figure, (axes,) = page("Tangent spaces of different samples", 1)
    curve(axes, found["times"], found["distance"], 0, "different samples")
    level(axes, found["chance"], "random subspaces")
    _from_zero(axes, found["times"], found["chance"])
    dress_panel(axes, "Mean distance from the others", (_TIME, _DISTANCE))
    return figure


def _times(found: Told) -> Figure:
    figure, (left, right) = page("Tangent spaces of one sample over time", 2)
    times = found["times"]
    mean = np.array([[one["mean"] for one in row] for row in found["distance"]])
    image = left.imshow(mean, cmap="magma_r", vmin=0, vmax=1.04 * found["chance"])
    left.set_xticks(range(len(times)), [str(t) for t in times], rotation=90)
    left.set_yticks(range(len(times)), [str(t) for t in times])
    bar = figure.colorbar(image, ax=left, shrink=0.9)
    bar.ax.axhline(found["chance"], color="#3d8fd1", linewidth=1.6)
    bar.ax.tick_params(labelsize=SMALL)
    dress_panel(left, "Distance (radians); blue: random subspaces", (_TIME, _TIME))
    left.grid(False)
    left.tick_params(length=0, labelsize=SMALL)
    for number, place in enumerate(sorted({0, len(times) // 2, len(times) - 1})):
        curve(right, times, found["distance"][place], number, f"from t = {times[place]}")
    level(right, found["chance"], "random subspaces")
    _from_zero(right, times, found["chance"], loc="upper right", ncols=2)
    right.set_ylim(0, 1.4 * found["chance"])
    dress_panel(right, "Distance from the space at one timestep", (_TIME, _DISTANCE))
    return figure


def _conditions(found: Told) -> Figure:
    figure, (left, right) = page("Tangent spaces at the same latents under several conditions", 2)
    times = found["times"]
    shown = sorted({0, len(times) // 2, len(times) - 1})
    for place, colour in zip(shown, shades(len(shown)), strict=True):
        means = [one["mean"] for one in found["distance"][place]]
        label = f"t = {times[place]}"
        left.plot(found["similarity"], means, "o", color=colour, markersize=3, label=label)
    level(left, found["chance"], "random subspaces")
    left.set_ylim(0, 1.35 * found["chance"])
    legend(left, ncols=2)
    rule = "Pairs of conditions, mean over the samples"
    dress_panel(left, rule, ("similarity of conditions (cosine)", _DISTANCE))
    curve(right, times, found["mean"], 0, "distance across conditions")
    level(right, found["chance"], "random subspaces")
    _from_zero(right, times, found["chance"])
    dress_panel(right, "How much conditions matter", (_TIME, _DISTANCE))
    return figure


def _classes(found: Told) -> Figure:
    figure, (left, right) = page("Tangent spaces within classes of data", 2)
    times, levels = found["times"], np.array(found["complexity"])
    order = np.argsort(levels)
    colours = matplotlib.colormaps["viridis"](np.linspace(0.0, 0.85, len(levels)))
    for colour, one in zip(colours, order, strict=True):
        values = [row[one]["mean"] for row in found["distance"]]
        left.plot(times, values, color=colour, linewidth=1.2, marker="o", markersize=2.5)
    level(left, found["chance"], "random subspaces")
    _from_zero(left, times, found["chance"])
    dress_panel(left, "A line per class, from simple (dark) to complex (light)", (_TIME, _DISTANCE))
    means = np.array([[one["mean"] for one in row] for row in found["distance"]]).mean(0)
    for colour, one in zip(colours, order, strict=True):
        right.plot(levels[one], means[one], "o", color=colour, markersize=4)
        right.annotate(
            shorten(found["names"][one], _NAME, placeholder=" …"), (levels[one], means[one]),
            textcoords="offset points", xytext=(4, 3), fontsize=SMALL,
        )  # fmt: skip
    right.margins(x=0.12, y=0.1)  # room for the names
    dress_panel(right, "Mean over t, by class", ("spread of the class's images", _DISTANCE))
    return figure


def _ablation(found: Told) -> Figure:
    figure, (axes,) = page("What turns the tangent space: $x_t$ or $t$", 1)
    times = found["times"]
    labels = {"both": "both change", "only_x": "$x_t$ alone changes", "only_t": "$t$ alone changes"}
    for number, (name, label) in enumerate(labels.items()):
        curve(axes, times, found[name], number, label)
    level(axes, found["chance"], "random subspaces")
    _from_zero(axes, found["times"], found["chance"])
    dress_panel(axes, f"Distance from the space at t = {times[0]}", (_TIME, _DISTANCE))
    return figure


def _curvature(found: Told) -> Figure:
    times, kinds = found["times"], found["kinds"]
    figure, panels = page("How far tangent spaces turn along paths", len(times))
    for place, (axes, t) in enumerate(zip(panels, times, strict=True)):
        for number, kind in enumerate(kinds):
            values = found["curvedness"][place][number]
            length = found["length"][place][number]["mean"]
            segments = range(1, len(values) + 1)
            curve(axes, segments, values, number, f"{kind}, length {length:.1f}")
        highest = max(one["high"] for row in found["curvedness"][place] for one in row)
        axes.set_ylim(0, 1.4 * highest)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        legend(axes, loc="upper right", ncols=2)
        rule = f"Curvedness at t = {t}; of random subspaces {found['chance'] / len(values):.2f}"
        dress_panel(axes, rule, ("segment", _DISTANCE))
    return figure


def _linearity(found: Told) -> Figure:
    figure, (left, right) = page("Local linearity of the denoised estimate", 2)
    times, steps = found["times"], found["steps"]
    shown = _spaced(len(times), 4)
    for place, colour in zip(shown, shades(len(shown)), strict=True):
        label = f"t = {times[place]}"
        curve(left, steps, found["cosine"][place], 0, label, colour=colour)
        curve(right, steps, found["change"][place], 0, label, colour=colour)
        dotted = {"colour": colour, "linestyle": (0, (1, 1.2))}
        curve(left, steps, found["constant"][place], 0, "", **dotted)
        curve(right, steps, found["random_change"][place], 0, "", **dotted)
    level(left, 0.99, "0.99, as published")
    rules = (
        "Cosine of x̂₀(x + λv) and x̂₀(x) + λJv; dotted: x̂₀(x) alone",
        "The same of the changes; dotted: random directions",
    )
    for axes, rule in zip((left, right), rules, strict=True):
        axes.set_xscale("log")
        axes.set_xticks(steps, [f"{one:g}" for one in (round(step, 3) for step in steps)])
        axes.xaxis.set_minor_locator(NullLocator())
        dress_panel(axes, rule, ("step λ, as a share of √n", "cosine"))
        legend(axes, loc="lower left")
    return figure


def _ranks(found: Told) -> Figure:
    figure, (axes,) = page("Rank of the Jacobian of the denoised estimate", 1)
    curve(axes, found["times"], found["ratio"], 0, "numerical rank over n")
    level(axes, found["random"], "Gaussian matrix")
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    noise_to_data(axes, found["times"])
    legend(axes)
    dress_panel(axes, "Singular values that hold 98 % of Σs²", (_TIME, "rank ratio"))
    return figure


def _radius(found: Told) -> Figure:
    figure, (left, right) = page("Radius of latents over time", 2)
    times = found["times"]
    curve(left, times, found["norm"], 0, "sampled $x_t$")
    left.plot(times, found["expected"], color="#6b6b6b", linestyle=(0, (4, 2)), label="expected")
    noise_to_data(left, times)
    legend(left)
    dress_panel(left, "Norm, and that of noised data", (_TIME, r"$\|x_t\|$"))
    for number, (name, label) in enumerate(
        (("sampled", "sampled"), ("inverted", "inverted"), ("noised", "data and isotropic noise"))
    ):
        curve(right, times, found[name], number, label)
    level(right, 1.0, "")
    noise_to_data(right, times)
    legend(right)
    dress_panel(right, "Norm over the expected one", (_TIME, r"$\|x_t\|$ over the expected"))
    return figure


def _from_zero(axes: Axes, times: Sequence[int], chance: float, **where: Any) -> None:
    """Distances over time, from zero to above chance."""
    axes.set_ylim(0, 1.12 * chance)
    noise_to_data(axes, times)
    legend(axes, **where)


def _spaced(count: int, most: int = _PER_PANEL) -> list[int]:
    """Places of at most so many of them, evenly, with the first and the last."""
    return sorted({round(one) for one in np.linspace(0, count - 1, min(count, most))})


_DRAWN: dict[str, Callable[[Told], Figure]] = {
    "spectra": _spectra,
    "frequencies": _frequencies,
    "samples": _samples,
    "times": _times,
    "conditions": _conditions,
    "classes": _classes,
    "ablation": _ablation,
    "curvature": _curvature,
    "linearity": _linearity,
    "ranks": _ranks,
    "radius": _radius,
}
