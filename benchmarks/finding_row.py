"""A published algorithm and ours on one problem: what was seen, told as ratios."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.summary import ratios, summary


@dataclass
class Method:
    """What was seen of one method, round by round.

    Attributes:
        label: what it is.
        batch: samples that it takes together.
        seconds: per sample.
        products: per sample, with J and with its transpose together; empty where there is no J.
        sines: of the largest angle to the truth; empty where that is not known.
        apart: likewise to what the published algorithm found in the same round.
        peak: the most bytes alive at once.
    """

    label: str
    batch: int
    seconds: list[float] = field(default_factory=list)
    products: list[float] = field(default_factory=list)
    sines: list[float] = field(default_factory=list)
    apart: list[float] = field(default_factory=list)
    peak: int = 0

    def add(
        self, seconds: float, products: int | None, sine: float | None, apart: float | None = None
    ) -> None:
        """What a round saw."""
        self.seconds.append(seconds)
        for values, value in (
            (self.products, products), (self.sines, sine), (self.apart, apart),
        ):  # fmt: skip
            if value is not None:
                values.append(value)

    def as_json(self, published: Method) -> dict[str, Any]:
        """Medians and extremes; how many times as much the published algorithm takes."""
        products = None
        if self.products:
            products = statistics.median(published.products) / statistics.median(self.products)
        return {
            "label": self.label,
            "batch": self.batch,
            "seconds_per_sample": summary(self.seconds),
            "products_per_sample": summary(self.products) if self.products else None,
            "sine": summary(self.sines) if self.sines else None,
            "sine_to_published": summary(self.apart) if self.apart else None,
            "peak_bytes": self.peak,
            "published_over_this": {
                "seconds": ratios(published.seconds, self.seconds),
                "products": products,
                "peak_bytes": published.peak / self.peak,
            },
        }


def row(
    name: str, shapes: Mapping[str, Any], published: Method, ours: Mapping[str, Method]
) -> dict[str, Any]:
    """All methods of a problem as JSON values, the published one first."""
    methods = {"published": published, **ours}
    return {
        "name": name,
        "shapes": dict(shapes),
        "methods": {key: method.as_json(published) for key, method in methods.items()},
    }
