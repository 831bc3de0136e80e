"""Pages of directions that are carried from sample to sample.

Nothing here runs a network: tensors come in, a matplotlib `Figure` comes out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from matplotlib.figure import Figure

from pullback.figures.sheet import GAP, Sheet, wide_of
from pullback.figures.style import FAINT, SMALL, TITLE
from pullback.figures.table import LETTER, MARGIN, named, names_of, signed, size_of, width_of

_TALLEST = 18.0  # inches of blocks on a page


@dataclass(frozen=True)
class TransportBlock:
    """One direction of the first sample, carried to all samples at one timestep, and applied.

    Attributes:
        t: the timestep in the scheduler's training units.
        images: what the S samples become, `[4, S, C, H, W]` from −1 to 1: without an edit, along
            the carried direction, against it, and along the first sample's own direction as it is.
        retained: norm of what each tangent space keeps of the direction, `[S]`, from 0 to 1; the
            first sample's own is 1.
    """

    t: int
    images: torch.Tensor
    retained: torch.Tensor


def transport_grid(
    blocks: Sequence[TransportBlock],
    *,
    samples: Sequence[str] | None = None,
    strength: float | None = None,
    chance: float | None = None,
    title: str | None = None,
) -> Figure:
    """A direction carried to other samples, beside the same direction applied as it is.

    Args:
        blocks: one for each timestep, of the same S samples: the source first.
        samples: what the S samples are called; by default they are counted.
        strength: of the edits, which the labels of the rows show.
        chance: what a tangent space keeps of a random unit vector, √(k/m), which the page then
            tells.
        title: of the page.

    Returns:
        A figure with a block of four rows per timestep: without an edit, carried + and −, and
        copied +, which is the source's vector applied to each target as it is. Over each column
        stands what the target's tangent space retains. Blocks that do not fit a page are left out,
        which it says.

    Raises:
        ValueError: the blocks are of different samples, or there are none.
    """
    count, called = _checked(blocks, samples)
    by = 1.0 if strength is None else strength
    mark = (signed(by), signed(-by)) if strength is not None else ("+", "−")
    labels = ("without edit", f"carried {mark[0]}", f"carried {mark[1]}", f"copied {mark[0]}")
    first = blocks[0].images[0, 0]
    wide, size = wide_of(first), max(size_of(first), 0.62)
    across, down = max(size * wide, 0.62) + GAP, size + GAP
    head, between, gutter, top = 0.2, 0.22, 0.14, 1.14
    tall = head + 4 * down + between
    shown = blocks[: max(1, int(_TALLEST / tall))]
    rules = [
        "Carried: projected on the target's tangent space. Copied: the source's latent vector as "
        "it is.",
        "Numbers: the part of the direction that the target's tangent space retains"
        + ("." if chance is None else f"; {chance:.2f} of a random one."),
    ]
    if len(shown) < len(blocks):
        rules[1] += f" The first {len(shown)} of {len(blocks)} timesteps."
    title = title or f"Parallel transport from {called[0]}"
    times = max(width_of(f"t = {block.t}", 0.072) for block in blocks)
    left = MARGIN + times + max(map(width_of, labels))
    width = left + count * across + gutter + MARGIN
    width = max(width, MARGIN * 2 + LETTER * max(1.25 * len(title), *map(len, rules)))
    with Sheet(width, top + len(shown) * tall - between + 0.1, wide) as sheet:
        sheet.text(MARGIN, 0.28, title, size=TITLE)
        for line, rule in enumerate(rules):
            sheet.text(MARGIN, 0.5 + 0.17 * line, rule, color=FAINT)
        x_of = [left + column * across + (gutter if column else 0.0) for column in range(count)]
        for column, (x, name) in enumerate(zip(x_of, called, strict=True)):
            middle = x + size * wide / 2
            what = "source" if column == 0 else "target"
            sheet.text(middle, 0.92, what, ha="center", size=SMALL, color=FAINT)
            sheet.text(middle, 1.06, name, ha="center")
        y = top
        for block in shown:
            sheet.text(
                left - 0.1, y + 0.13, "retained", ha="right", size=SMALL, color=FAINT
            )  # fmt: skip
            for x, part in zip(x_of[1:], block.retained[1:].tolist(), strict=True):
                place = x + size * wide / 2
                sheet.text(place, y + 0.13, f"{part:.2f}", ha="center", size=SMALL, color=FAINT)
            sheet.text(MARGIN, y + head + size / 2, f"t = {block.t}", va="center", weight="bold")
            for row, label in enumerate(labels):
                height = y + head + row * down
                sheet.text(left - 0.1, height + size / 2, label, va="center", ha="right")
                for x, image in zip(x_of, block.images[row], strict=True):
                    sheet.picture(x, height, size, image)
            y += tall
    return sheet.figure


def global_grid(
    images: torch.Tensor,
    retained: torch.Tensor,
    *,
    samples: Sequence[str] | None = None,
    names: Sequence[str] | None = None,
    strength: float | None = None,
    title: str | None = None,
) -> Figure:
    """Samples edited along global directions: a row per direction, three columns per sample.

    Args:
        images: D directions and B samples, `[D, B, 3, C, H, W]` from −1 to 1: against the
            direction as it is localised at the sample, without an edit, and along it.
        retained: norm of what each sample keeps of each direction, `[D, B]`.
        samples: what the B samples are called; by default they are counted.
        names: of the D directions; by default they are counted.
        strength: of the edits, which the page then tells.
        title: of the page.

    Returns:
        A figure whose framed images are not edited. Below the three images of a sample stands what
        its tangent space retains.

    Raises:
        ValueError: the shapes do not fit one another.
    """
    count, across_samples = images.shape[:2]
    if images.shape[2] != 3 or retained.shape != images.shape[:2]:
        raise ValueError(
            f"Expected images [D, B, 3, ...] and retained [D, B], got {list(images.shape)} and "
            f"{list(retained.shape)}."
        )
    called = names_of(samples, across_samples)
    labels = (
        [f"direction {d + 1}" for d in range(count)] if names is None else [named(n) for n in names]
    )
    first = images[0, 0, 0]
    wide, size = wide_of(first), size_of(first)
    block, gutter, top = 3 * (size * wide + GAP), 0.16, 0.98
    down = size + 0.22
    left = MARGIN + max(map(width_of, labels))
    signs = "−, 0, +" if strength is None else f"−{strength:g}, 0, +{strength:g}"
    rule = f"Strengths {signs} along the localised direction. Numbers: retained when localised."
    title = title or "Samples along global directions"
    width = left + across_samples * (block + gutter) + MARGIN
    width = max(width, MARGIN * 2 + LETTER * max(len(rule), 1.25 * len(title)))
    with Sheet(width, top + count * down + 0.06, wide) as sheet:
        sheet.text(MARGIN, 0.28, title, size=TITLE)
        sheet.text(MARGIN, 0.52, rule, color=FAINT)
        for b, name in enumerate(called):
            x = left + b * (block + gutter)
            sheet.text(x + (block - GAP) / 2, 0.86, name, ha="center")
            for d in range(count):
                y = top + d * down
                sheet.row(x, y, images[d, b], 1, size)
                told = f"{float(retained[d, b]):.2f}"
                place = x + (block - GAP) / 2
                sheet.text(place, y + size + 0.13, told, ha="center", size=SMALL, color=FAINT)
        for d, label in enumerate(labels):
            sheet.text(left - 0.1, top + d * down + size / 2, label, va="center", ha="right")
    return sheet.figure


def _checked(
    blocks: Sequence[TransportBlock], samples: Sequence[str] | None
) -> tuple[int, list[str]]:
    """How many samples the blocks are of, and what they are called."""
    shapes = {tuple(block.images.shape) for block in blocks}
    if len(shapes) != 1:
        raise ValueError(f"Expected blocks of the same images, got {sorted(map(list, shapes))}.")
    rows, count = blocks[0].images.shape[:2]
    if rows != 4 or any(tuple(block.retained.shape) != (count,) for block in blocks):
        told = [list(block.retained.shape) for block in blocks]
        raise ValueError(
            f"Expected images [4, S, ...] and retained [S], got {[*blocks[0].images.shape]} and "
            f"{told[0]}."
        )
    return count, names_of(samples, count)
