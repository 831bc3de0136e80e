"""Pages that are one table of images: rows with labels, columns with heads."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from matplotlib.figure import Figure

from pullback.figures.lines import is_signal
from pullback.figures.sheet import GAP, NARROWEST, Sheet, wide_of
from pullback.figures.style import FAINT, LABEL, SMALL, TITLE

_LEAST, _MOST = 0.55, 1.1  # inches: height of a tile
_DENSITY = 72  # pixels of an image to an inch
_TALLEST = 18.0  # inches of rows on a page
LETTER, BOLD = 0.06, 0.072  # inches, of a letter of a label
_LONGEST = 22  # letters of a label
MARGIN, _TOP = 0.15, 0.96


@dataclass(frozen=True)
class Row:
    """One row: its labels, of a group and its own, and its images `[K, C, H, W]`."""

    group: str
    label: str
    images: torch.Tensor


def table(
    title: str,
    rule: str,
    rows: Sequence[Row],
    heads: Sequence[str],
    middle: int | None,
    corner: str = "",
) -> Figure:
    """A page of rows of images.

    Args:
        title: of the page.
        rule: what is shown, as sentences below the title.
        rows: the rows; those that do not fit a page are left out, which it says.
        heads: of the columns.
        middle: the column that is framed, or None.
        corner: what the heads are, such as "strength".
    """
    first = rows[0].images[0]
    groups = max(width_of(row.group, BOLD) for row in rows)
    left = MARGIN + max(groups + max(width_of(row.label) for row in rows), width_of(corner))
    wide = wide_of(first)
    # Few images fill the width that the texts need.
    filling = (NARROWEST - left - MARGIN) / len(heads) - GAP
    size = min(max(size_of(first), filling / wide), _MOST)
    across, down = size * wide + GAP, size + GAP
    most = max(1, int(_TALLEST / down))
    shown = rows[:most]
    if len(shown) < len(rows):
        rule += f" The first {len(shown)} of {len(rows)} rows."
    if is_signal(first):
        rule += " One line for each channel."
    between = 0.1
    breaks = sum(1 for row in shown[1:] if row.group and row.label)
    width = left + len(heads) * across + MARGIN
    # Texts are wider than a page of few images.
    width = max(width, MARGIN * 2 + LETTER * max(len(rule), 1.25 * len(title)))
    height = _TOP + len(shown) * down + breaks * between + 0.11
    with Sheet(width, height, wide) as sheet:
        sheet.text(MARGIN, 0.28, title, size=TITLE)
        sheet.text(MARGIN, 0.52, rule, color=FAINT)
        if corner:
            sheet.text(left - 0.1, 0.84, corner, ha="right", size=SMALL, color=FAINT)
        for column, head in enumerate(heads):
            place = left + column * across + size * wide / 2
            sheet.text(place, 0.84, head, ha="center", size=LABEL)
        y = _TOP
        for number, row in enumerate(shown):
            if number and row.group and row.label:
                y += between
            sheet.text(MARGIN, y + size / 2, row.group, va="center", weight="bold")
            sheet.text(left - 0.1, y + size / 2, row.label, va="center", ha="right")
            sheet.row(left, y, row.images, middle, size)
            y += down
    return sheet.figure


def size_of(image: torch.Tensor) -> float:
    """Height of a tile in inches: larger for larger images, of which more is to be seen."""
    if image.dim() < 3:
        return _LEAST
    pixels = image.shape[-2] * (1 if image.dim() == 3 else image.shape[1] ** 0.5)
    return min(max(pixels / _DENSITY, _LEAST), _MOST)


def signed(strength: float) -> str:
    """A strength as a head: +4, −0.5 or 0."""
    return "0" if strength == 0 else f"{strength:+.3g}".replace("-", "−")


def named(name: str) -> str:
    """A name as a label: v_1 as a symbol, all else as it is, and not too long."""
    if match := re.fullmatch(r"([uv])_(\d+)", name):
        return f"${match[1]}_{{{match[2]}}}$"
    name = name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…"
    return name.replace("$", r"\$")


def names_of(samples: Sequence[str] | None, count: int) -> list[str]:
    """What samples are called, as labels; by default they are counted.

    Raises:
        ValueError: there are more or fewer names.
    """
    called = [f"sample {b}" for b in range(count)] if samples is None else list(samples)
    if len(called) != count:
        raise ValueError(f"Expected {count} names of samples, got {len(called)}.")
    return [named(name) for name in called]


def width_of(label: str, letter: float = LETTER) -> float:
    """Inches that a label takes, with the space behind it."""
    if not label:
        return 0.0
    letters = 2.5 if label.startswith("$") else len(label)
    return letters * letter + 0.15
