"""Every way to find directions on the digit model, before a judge: one table with its controls.

What is measured is `pullback.zoo.digits.directions`, whose page is docs/directions-evidence.md.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from pullback.zoo.digits import directions_report
from pullback.zoo.digits.directions import Settings, measure

__all__ = ["Settings", "print_directions", "run"]


def run(
    settings: Settings, device: torch.device, tell: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Find directions by every way, and judge them.

    Args:
        settings: what to measure.
        device: of the model.
        tell: called with a line on what comes next.

    Returns:
        JSON values: a line for each way, the variants of attention, and the setting.
    """
    return measure(settings, tell, device)


def print_directions(console: Console, results: dict[str, Any]) -> None:
    """What each way does, and what finding took; times as ratios to the first way's."""
    settings = results["settings"]
    console.print(
        f"{settings['samples']} samples at t = {settings['t']}, {settings['steps']} steps; every "
        f"strength changes images by {settings['energy']:g} (RMS, of a range of 2) as far as it "
        "can. Effects are in deviations of the samples, at samples where directions were not "
        "found, with 95 % intervals; the noise beside each has its norm."
    )
    for title, (heads, rows) in (
        ("Effects", directions_report.effects(results)),
        ("Costs of all directions of a way", directions_report.costs(results)),
    ):
        table = Table(title=title)
        for place, head in enumerate(heads):
            table.add_column(head, justify="left" if not place else "right")
        for row in rows:
            table.add_row(*(cell.replace("**", "") for cell in row))
        console.print(table)
