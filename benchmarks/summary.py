"""What many measured values are told as."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any


def summary(values: Sequence[float]) -> dict[str, Any]:
    """Their median and extremes, and all of them."""
    return {
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
        "all": list(values),
    }


def ratios(times: Sequence[float], ours: Sequence[float]) -> dict[str, float]:
    """The median of the rounds' own ratios, since rounds differ in what else the machine does."""
    found = [time / our for time, our in zip(times, ours, strict=True)]
    return {"median": statistics.median(found), "min": min(found), "max": max(found)}
