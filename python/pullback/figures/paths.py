"""Figures of paths between samples: what they pass, and how their tangent spaces turn.

Nothing here runs a network: tensors come in, a matplotlib `Figure` comes out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pullback.figures.curves import draw_curve, dress, style_of
from pullback.figures.style import LABEL, STYLE
from pullback.figures.table import Row, table

_NO_GAP = 5e-3


def path_curves(
    distances: Mapping[str, torch.Tensor], *, t: int | None = None, title: str | None = None
) -> Figure:
    """How far the tangent space turns on each segment of paths, a line per kind.

    Args:
        distances: geodesic distances of consecutive tangent spaces, `[segments, B]` in radians, of
            B pairs of samples, by kind of path.
        t: the timestep of the paths in training units, which the title then tells.
        title: of the page.

    Returns:
        A figure with the mean over the pairs, in a band from the least to the largest where there
        are several. The legend has the length of each kind, the mean over the pairs.

    Raises:
        ValueError: there is no kind, or the pairs differ in number.
    """
    shapes = {len(one[0]) if one.dim() == 2 else 0 for one in distances.values()}
    if len(shapes) != 1 or 0 in shapes:
        told = {kind: list(one.shape) for kind, one in distances.items()}
        raise ValueError(f"Expected distances [segments, B] of the same B pairs, got {told}.")
    pairs = shapes.pop()
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.2, 3.5), layout="constrained")
        axes = figure.add_subplot()
        for number, (kind, found) in enumerate(distances.items()):
            values = found.detach().double().cpu().numpy()
            segment = np.arange(1, len(values) + 1)
            label = f"{kind}, length {values.sum(0).mean():.2f}"
            band = (values.min(1), values.mean(1), values.max(1))
            draw_curve(axes, segment, *band, label=label, **style_of(number))
        most = max(float(one.max()) for one in distances.values())
        axes.set_ylim(0, 1.35 * most or 1.0)  # with room for the legend
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(fontsize=LABEL, frameon=False, loc="upper right")
        where = "" if t is None else f" at t = {t}"
        rule = f"Mean, least and largest of {pairs} pairs" if pairs > 1 else "One pair"
        dress(
            axes, title or f"How far tangent spaces turn along paths{where}", rule,
            ("segment", "geodesic distance (radians)"),
        )  # fmt: skip
    return figure


def path_images(
    images: Mapping[str, torch.Tensor],
    *,
    places: Sequence[float] | None = None,
    gaps: Mapping[str, float] | None = None,
    title: str | None = None,
) -> Figure:
    """What the points of paths lead to: a row per kind, from start to end.

    Args:
        images: by kind of path, `[P, C, H, W]` from −1 to 1 of the same P points.
        places: where the points are, from 0 at the start to 1 at the end; evenly by default.
        gaps: by kind, how far the last point is from the end, over the distance of the ends; what
            is zero in two digits is not told.
        title: of the page.

    Raises:
        ValueError: the kinds have different numbers of points, or there are none.
    """
    counts = {len(one) for one in images.values()}
    if len(counts) != 1:
        told = {kind: len(one) for kind, one in images.items()}
        raise ValueError(f"Expected images of the same points of every kind, got {told}.")
    count = counts.pop()
    found = np.linspace(0, 1, count).tolist() if places is None else list(places)
    rows = [Row(kind, "", own) for kind, own in images.items()]
    rule = "What each point leads to."
    for kind, gap in (gaps or {}).items():
        if gap > _NO_GAP:
            rule += f" The last one of {kind} misses the end by {gap:.2f} of the ends' distance."
    heads = [f"{place:.2g}" for place in found]
    return table(title or "Paths between two samples", rule, rows, heads, None, "along the path")
