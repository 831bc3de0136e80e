"""Pages of edits: samples along directions, strength by strength.

Nothing here runs a network: a sweep comes in, a matplotlib `Figure` comes out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from matplotlib.figure import Figure

from pullback.editing import Sweep
from pullback.figures.lines import is_signal
from pullback.figures.sheet import GAP, NARROWEST, Sheet, wide_of
from pullback.figures.style import FAINT, LABEL, SMALL, TITLE

_LEAST, _MOST = 0.55, 1.1  # inches: height of a tile
_DENSITY = 72  # pixels of an image to an inch
_TALLEST = 18.0  # inches of rows on a page
_LETTER, _BOLD = 0.06, 0.072  # inches, of a letter of a label
_LONGEST = 22  # letters of a label
_MARGIN, _TOP = 0.15, 0.96


@dataclass(frozen=True)
class _Row:
    """One row: its labels, of a group and its own, and its images `[K, C, H, W]`."""

    group: str
    label: str
    images: torch.Tensor


def edit_grid(
    sweep: Sweep,
    images: torch.Tensor | None = None,
    *,
    samples: Sequence[str] | None = None,
    title: str | None = None,
) -> Figure:
    """All edits of a sweep: a row per sample and direction, a column per strength.

    Args:
        sweep: the edits.
        images: what its latents look like, `[B, D, K, C, H, W]` from −1 to 1; by default they are
            shown as they are.
        samples: what the B samples are called; by default they are counted.
        title: of the page.

    Returns:
        A figure whose framed column is not edited, if there is one of strength 0. Rows that do not
        fit a page are left out, which it says.
    """
    images, called = _checked(sweep, images, samples)
    rows = [
        _Row(called[b] if d == 0 else "", _named(name), images[b, d])
        for b in range(len(called))
        for d, name in enumerate(sweep.names)
    ]
    return _page(title or f"Edits at t = {sweep.t}", _rule(sweep.stop), rows, sweep.strengths)


def edit_strip(
    sweep: Sweep,
    index: int,
    images: torch.Tensor | None = None,
    *,
    samples: Sequence[str] | None = None,
    title: str | None = None,
) -> Figure:
    """The edits by one direction of a sweep: a row per sample, a column per strength.

    Args:
        sweep: the edits.
        index: which direction, from 0.
        images: as for `edit_grid`, `[B, D, K, C, H, W]`.
        samples: as for `edit_grid`.
        title: of the page.
    """
    images, called = _checked(sweep, images, samples)
    rows = [_Row(name, "", images[b, index]) for b, name in enumerate(called)]
    title = title or f"Edits along {_named(sweep.names[index])} at t = {sweep.t}"
    return _page(title, _rule(sweep.stop), rows, sweep.strengths)


def edit_timesteps(
    sweeps: Sequence[Sweep],
    images: Sequence[torch.Tensor] | None = None,
    *,
    sample: int = 0,
    index: int = 0,
    title: str | None = None,
) -> Figure:
    """One direction applied at several timesteps: a row for each, a column per strength.

    Args:
        sweeps: the edits at each timestep, of the same strengths, in the order of the rows.
        images: of each sweep, as for `edit_grid`, `[B, D, K, C, H, W]`.
        sample: which sample, from 0.
        index: which direction, from 0.
        title: of the page.

    Raises:
        ValueError: the strengths differ.
    """
    if not sweeps or len({sweep.strengths for sweep in sweeps}) > 1:
        raise ValueError(
            f"Expected sweeps of the same strengths, got {[sweep.strengths for sweep in sweeps]}."
        )
    rows = []
    for place, sweep in enumerate(sweeps):
        own, _ = _checked(sweep, None if images is None else images[place], None)
        rows.append(_Row(f"t = {sweep.t}", "", own[sample, index]))
    names = {_named(sweep.names[index]) for sweep in sweeps}
    title = title or f"Edits along {', '.join(sorted(names))} by timestep"
    return _page(title, _rule(sweeps[0].stop), rows, sweeps[0].strengths)


def edit_frames(
    sweep: Sweep,
    images: torch.Tensor | None = None,
    *,
    samples: Sequence[str] | None = None,
    title: str | None = None,
) -> list[Figure]:
    """A film of a sweep: a figure per strength, with a row per sample and a column per direction.

    Args:
        sweep: the edits.
        images: as for `edit_grid`, `[B, D, K, C, H, W]`.
        samples: as for `edit_grid`.
        title: of each.

    Returns:
        The figures, all of one size, in the order of the strengths.
    """
    images, called = _checked(sweep, images, samples)
    heads = [_named(name) for name in sweep.names]
    shown = []
    for k, strength in enumerate(sweep.strengths):
        rows = [_Row(name, "", images[b, :, k]) for b, name in enumerate(called)]
        rule = f"strength {_signed(strength)}"
        shown.append(_table(title or f"Edits at t = {sweep.t}", rule, rows, heads, None))
    return shown


def _checked(
    sweep: Sweep, images: torch.Tensor | None, samples: Sequence[str] | None
) -> tuple[torch.Tensor, list[str]]:
    """The images of a sweep, and what its samples are called."""
    found = sweep.latents if images is None else images
    if found.shape[:3] != sweep.latents.shape[:3]:
        raise ValueError(
            f"Expected images [B, D, K, ...] of {list(sweep.latents.shape[:3])} edits, got "
            f"{list(found.shape)}."
        )
    count = len(sweep.latents)
    called = [f"sample {b}" for b in range(count)] if samples is None else list(samples)
    if len(called) != count:
        raise ValueError(f"Expected {count} names of samples, got {len(called)}.")
    return found, [_named(name) for name in called]


def _page(title: str, rule: str, rows: Sequence[_Row], strengths: Sequence[float]) -> Figure:
    middle = strengths.index(0.0) if 0.0 in strengths else None
    if middle is not None:
        rule += " The framed column is not edited."
    return _table(title, rule, rows, [_signed(one) for one in strengths], middle, "strength")


def _table(
    title: str,
    rule: str,
    rows: Sequence[_Row],
    heads: Sequence[str],
    middle: int | None,
    corner: str = "",
) -> Figure:
    first = rows[0].images[0]
    groups = max(_width(row.group, _BOLD) for row in rows)
    left = _MARGIN + max(groups + max(_width(row.label) for row in rows), _width(corner))
    wide = wide_of(first)
    # Few images fill the width that the texts need.
    filling = (NARROWEST - left - _MARGIN) / len(heads) - GAP
    size = min(max(_size(first), filling / wide), _MOST)
    across, down = size * wide + GAP, size + GAP
    most = max(1, int(_TALLEST / down))
    shown = rows[:most]
    if len(shown) < len(rows):
        rule += f" The first {len(shown)} of {len(rows)} rows."
    if is_signal(first):
        rule += " One line for each channel."
    between = 0.1
    breaks = sum(1 for row in shown[1:] if row.group and row.label)
    width = left + len(heads) * across + _MARGIN
    # Texts are wider than a page of few images.
    width = max(width, _MARGIN * 2 + _LETTER * max(len(rule), 1.25 * len(title)))
    height = _TOP + len(shown) * down + breaks * between + 0.11
    with Sheet(width, height, wide) as sheet:
        sheet.text(_MARGIN, 0.28, title, size=TITLE)
        sheet.text(_MARGIN, 0.52, rule, color=FAINT)
        if corner:
            sheet.text(left - 0.1, 0.84, corner, ha="right", size=SMALL, color=FAINT)
        for column, head in enumerate(heads):
            place = left + column * across + size * wide / 2
            sheet.text(place, 0.84, head, ha="center", size=LABEL)
        y = _TOP
        for number, row in enumerate(shown):
            if number and row.group and row.label:
                y += between
            sheet.text(_MARGIN, y + size / 2, row.group, va="center", weight="bold")
            sheet.text(left - 0.1, y + size / 2, row.label, va="center", ha="right")
            sheet.row(left, y, row.images, middle, size)
            y += down
    return sheet.figure


def _size(image: torch.Tensor) -> float:
    """Height of a tile in inches: larger for larger images, of which more is to be seen."""
    if image.dim() < 3:
        return _LEAST
    pixels = image.shape[-2] * (1 if image.dim() == 3 else image.shape[1] ** 0.5)
    return min(max(pixels / _DENSITY, _LEAST), _MOST)


def _rule(stop: int) -> str:
    return "Taken to the data." if stop == -1 else f"Latents at t = {stop}."


def _signed(strength: float) -> str:
    return "0" if strength == 0 else f"{strength:+.3g}".replace("-", "−")


def _named(name: str) -> str:
    """A name as a label: v_1 as a symbol, all else as it is, and not too long."""
    if match := re.fullmatch(r"([uv])_(\d+)", name):
        return f"${match[1]}_{{{match[2]}}}$"
    name = name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…"
    return name.replace("$", r"\$")


def _width(label: str, letter: float = _LETTER) -> float:
    """Inches that a label takes, with the space behind it."""
    if not label:
        return 0.0
    letters = 2.5 if label.startswith("$") else len(label)
    return letters * letter + 0.15
