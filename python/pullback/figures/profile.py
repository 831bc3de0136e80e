"""Figures of where time goes: a page of bars, and curves of cost over the batch and the rank.

Nothing here runs a network: numbers come in, a matplotlib `Figure` comes out.
"""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, PercentFormatter, StrMethodFormatter

from pullback.figures.curves import draw_curve, dress
from pullback.figures.style import COLOURS, FAINT, LABEL, SMALL, STYLE, TITLE

#: Colours of kinds of work in their order; from the seventh on they are of one family.
_KINDS = (
    *COLOURS[:4],
    COLOURS[5],
    "#7a5195",
    "#7c8ea3",
    "#9fb0c3",
    "#c3cfdb",
    "#9a9a9a",
    "#dcdcdc",
)

#: Stages whose names say too little beside a bar.
_STAGES = {"push": r"products $Jv$", "pull": r"products $J^\top u$"}

_ROW = 0.26  # inches


def time_breakdown(
    kinds: Mapping[str, float],
    stages: Mapping[str, Mapping[str, float]],
    seconds: float,
    *,
    notes: Mapping[str, str] | None = None,
    rule: str = "",
    title: str | None = None,
) -> Figure:
    """What the wall time went into, by kind of work, and by stage.

    Args:
        kinds: shares of the wall time by kind of work, which add up to 1.
        stages: by stage, shares of the wall time by kind.
        seconds: the wall time.
        notes: what is to be told beside the bar of a kind.
        rule: what was profiled, a line below the bars.
        title: of the page.

    Returns:
        A figure with a bar for each kind on the left, and one for each stage on the right, in the
        colours of the kinds.

    Raises:
        ValueError: there are no kinds, or a share is negative.
    """
    if not kinds or min(kinds.values()) < 0:
        raise ValueError(f"Expected shares of the wall time, 0 or more, got {dict(kinds)}.")
    colours = {kind: _KINDS[place % len(_KINDS)] for place, kind in enumerate(kinds)}
    with matplotlib.rc_context(STYLE):
        height = 1.35 + _ROW * max(len(kinds), 1.6 * len(stages))
        figure = Figure(figsize=(8.6, height), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
        _draw_kinds(left, kinds, seconds, notes or {}, colours)
        _draw_stages(right, stages, colours)
        figure.suptitle(title or "Where the time goes", fontsize=TITLE, x=0.01, ha="left")
        figure.supxlabel(rule, fontsize=SMALL, color=FAINT, x=0.01, ha="left")
    return figure


def cost_curves(
    over_samples: Mapping[int, float],
    over_rank: Mapping[int, float],
    *,
    rank: int,
    samples: int,
    title: str | None = None,
) -> Figure:
    """What a sample costs over the size of the batch, and what a direction costs over the rank.

    Args:
        over_samples: seconds of a sample, by the number of samples.
        over_rank: seconds of a direction of a sample, by the rank.
        rank: at which the batch grew.
        samples: in the batch while the rank grew.
        title: of the page.

    Raises:
        ValueError: nothing was measured.
    """
    if not over_samples or not over_rank:
        raise ValueError(
            "Expected at least one batch and one rank that were measured, got "
            f"{len(over_samples)} and {len(over_rank)}."
        )
    panels = (
        (over_samples, "samples in a batch", "time of a sample (s)", f"Rank {rank}"),
        (over_rank, "rank", "time of a direction (ms)", f"{samples} samples in a batch"),
    )
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.6, 3.4), layout="constrained")
        both = figure.subplots(1, 2)
        for place, (axes, (found, across, up, rule)) in enumerate(zip(both, panels, strict=True)):
            x = np.array(sorted(found))
            y = np.array([found[int(one)] for one in x]) * (1000 if place else 1)
            draw_curve(axes, x, y, y, y, COLOURS[place], "")
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_locator(FixedLocator(x.tolist()))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axes.set_ylim(0, 1.15 * float(y.max()))
            dress(axes, "" if place else title or "What bases cost", rule, (across, up))
    return figure


def _draw_kinds(
    axes: Axes,
    kinds: Mapping[str, float],
    seconds: float,
    notes: Mapping[str, str],
    colours: Mapping[str, str],
) -> None:
    most = max(kinds.values())
    for place, (kind, share) in enumerate(kinds.items()):
        axes.barh(place, share, height=0.72, color=colours[kind])
        told = f"{100 * share:.1f} %  {seconds * share:.3g} s"
        note = notes.get(kind)
        axes.text(share + 0.02 * most, place, told, va="center", fontsize=SMALL)
        if note:
            axes.text(1.62 * most, place, note, va="center", fontsize=SMALL, color=FAINT)
    axes.set_yticks(range(len(kinds)), list(kinds), fontsize=LABEL)
    axes.set_xlim(0, 2.6 * most if notes else 1.6 * most)
    axes.invert_yaxis()
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.spines[["top", "right", "bottom"]].set_visible(False)


def _draw_stages(
    axes: Axes, stages: Mapping[str, Mapping[str, float]], colours: Mapping[str, str]
) -> None:
    for place, parts in enumerate(stages.values()):
        start = 0.0
        for kind, colour in colours.items():
            share = parts.get(kind, 0.0)
            axes.barh(place, share, left=start, height=0.62, color=colour, linewidth=0)
            start += share
    names = [_STAGES.get(stage, stage) for stage in stages]
    axes.set_yticks(range(len(stages)), names, fontsize=LABEL)
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
    axes.tick_params(axis="x", labelsize=LABEL, width=0.6, color=FAINT)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("share of the wall time, by stage", fontsize=LABEL)
    axes.grid(True, axis="x", linewidth=0.4, color="#e4e4e4")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
