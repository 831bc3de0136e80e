"""Pages of square matrices: distances of tangent spaces, and angles between directions.

Nothing here runs a network: tensors come in, a matplotlib `Figure` comes out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure

from pullback.directions import Comparison
from pullback.figures.sheet import NARROWEST
from pullback.figures.style import FAINT, INK, LABEL, SMALL, STYLE, TITLE
from pullback.figures.table import LETTER, MARGIN, named, names_of, width_of
from pullback.geometry import grassmann

_WRITTEN = 12  # rows up to which a matrix has its numbers written in
_ROW, _LEAST_ROW = 0.34, 0.12  # inches of a row, and what its label takes


def distance_matrix(
    distances: Mapping[int, torch.Tensor],
    *,
    samples: Sequence[str] | None = None,
    random: float | None = None,
    title: str | None = None,
) -> Figure:
    """Distances of the tangent spaces of all pairs of samples, a panel per timestep.

    Args:
        distances: geodesic distances `[S, S]` in radians by timestep, in training units.
        samples: what the S samples are called; by default they are counted.
        random: the distance of two random subspaces, which the page then tells and where the
            common scale of colours ends, unless a distance is larger.
        title: of the page.

    Raises:
        ValueError: a matrix is not square, or they are of different sizes.
    """
    sizes = {tuple(matrix.shape) for matrix in distances.values()}
    count = max(sizes, default=(0,))[0]
    if len(sizes) != 1 or sizes != {(count, count)}:
        raise ValueError(f"Expected matrices [S, S] of one size, got {sorted(map(list, sizes))}.")
    panels = {f"t = {t}": matrix.detach().double().cpu().numpy() for t, matrix in distances.items()}
    most = max(random or 0.0, *(float(matrix.max()) for matrix in panels.values())) or 1.0
    rule = "Geodesic distance of the tangent spaces, in radians"
    rule += "." if random is None else f"; the blue line: {random:.2f}, that of random ones."
    return _matrices(
        panels, names_of(samples, count), title or "Tangent spaces of the samples", rule,
        cmap="magma_r", most=1.04 * most, mark=random, digits=1,
    )  # fmt: skip


def angle_matrix(comparison: Comparison, *, title: str | None = None) -> Figure:
    """Angles between all pairs of directions, whatever their signs.

    Args:
        comparison: of the directions, as `pullback.directions.compare` makes it.
        title: of the page.

    Returns:
        A figure with angles from 0° to 90°, and with the mean angle of two random vectors of as
        many entries. Angles of more than 12 directions are told by their colours alone.
    """
    degrees = comparison.cosines.abs().clamp(max=1).acos().rad2deg().numpy()
    random = math.degrees(grassmann.random_distance(1, comparison.size))
    return _matrices(
        {"": degrees}, [named(name) for name in comparison.names],
        title or "Angles between directions",
        f"In degrees, whatever the signs; the blue line: {random:.0f}°, that of random ones.",
        cmap="magma", most=90.0, mark=random, digits=0,
    )  # fmt: skip


def _matrices(
    panels: Mapping[str, np.ndarray],
    labels: Sequence[str],
    title: str,
    rule: str,
    *,
    cmap: str,
    most: float,
    mark: float | None,
    digits: int,
) -> Figure:
    """Square matrices side by side, of the same rows and on one scale.

    Args:
        panels: matrices `[S, S]` by what stands above them.
        labels: of the S rows and columns.
        title: of the page.
        rule: what is shown, as a sentence below the title.
        cmap: the map of colours.
        most: where its scale ends, which starts at 0.
        mark: where on the scale there is a line, or None.
        digits: behind the point of numbers that are written in.
    """
    count = len(labels)
    label = max(map(width_of, labels))
    filling = (NARROWEST - label - 1.2) / len(panels)  # few panels fill the width of the texts
    side = max(min(max(_ROW * count, 1.7, min(filling, count)), 3.2), _LEAST_ROW * count)
    left, top, gap = MARGIN + label, 0.98 if any(panels) else 0.74, 0.16
    width = left + len(panels) * (side + gap) + 0.7
    width = max(width, MARGIN * 2 + LETTER * max(len(rule), 1.25 * len(title)))
    height = top + side + label + 0.12
    colours = matplotlib.colormaps[cmap]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height))
        base, tall = 1 - (top + side) / height, side / height
        figure.text(MARGIN / width, 1 - 0.28 / height, title, fontsize=TITLE)
        figure.text(MARGIN / width, 1 - 0.52 / height, rule, fontsize=LABEL, color=FAINT)
        for place, (head, matrix) in enumerate(panels.items()):
            x = (left + place * (side + gap)) / width
            panel = figure.add_axes((x, base, side / width, tall))
            image = panel.imshow(matrix, cmap=cmap, vmin=0.0, vmax=most)
            panel.set_title(head, fontsize=LABEL, weight="bold")
            panel.set_xticks(range(count), labels, rotation=90, fontsize=SMALL)
            panel.set_yticks(range(count), [] if place else labels, fontsize=SMALL)
            panel.tick_params(length=0, colors=INK)
            if count <= _WRITTEN:
                for (row, column), value in np.ndenumerate(matrix):
                    red, green, blue, _ = colours(value / most)
                    dark = 0.3 * red + 0.6 * green + 0.1 * blue < 0.55
                    panel.text(
                        column, row, f"{value:.{digits}f}", ha="center", va="center",
                        size=SMALL - 1, color="white" if dark else INK,
                    )  # fmt: skip
        x = (left + len(panels) * (side + gap)) / width
        bar = figure.add_axes((x, base, 0.12 / width, tall))
        figure.colorbar(image, cax=bar)
        bar.tick_params(labelsize=SMALL, width=0.6, colors=INK)
        if mark is not None:
            bar.axhline(mark, color="#3d8fd1", linewidth=1.6)
    return figure
