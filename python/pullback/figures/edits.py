"""Pages of edits: samples along directions, strength by strength.

Nothing here runs a network: a sweep comes in, a matplotlib `Figure` comes out.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from matplotlib.figure import Figure

from pullback.editing import Sweep
from pullback.figures.table import Row, named, names_of, signed, table


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
        Row(called[b] if d == 0 else "", named(name), images[b, d])
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
    rows = [Row(name, "", images[b, index]) for b, name in enumerate(called)]
    title = title or f"Edits along {named(sweep.names[index])} at t = {sweep.t}"
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
        rows.append(Row(f"t = {sweep.t}", "", own[sample, index]))
    names = {named(sweep.names[index]) for sweep in sweeps}
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
    heads = [named(name) for name in sweep.names]
    shown = []
    for k, strength in enumerate(sweep.strengths):
        rows = [Row(name, "", images[b, :, k]) for b, name in enumerate(called)]
        rule = f"strength {signed(strength)}"
        shown.append(table(title or f"Edits at t = {sweep.t}", rule, rows, heads, None))
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
    return found, names_of(samples, len(sweep.latents))


def _page(title: str, rule: str, rows: Sequence[Row], strengths: Sequence[float]) -> Figure:
    middle = strengths.index(0.0) if 0.0 in strengths else None
    if middle is not None:
        rule += " The framed column is not edited."
    return table(title, rule, rows, [signed(one) for one in strengths], middle, "strength")


def _rule(stop: int) -> str:
    return "Taken to the data." if stop == -1 else f"Latents at t = {stop}."
