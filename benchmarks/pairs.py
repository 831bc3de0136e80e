"""Distances between all pairs of many subspaces: blocks and one kernel against the obvious loop."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

import pullback_ext
from benchmarks.timing import Stopwatch
from pullback.geometry import grassmann
from pullback.geometry.grassmann.pairs import blocks

#: What must be shown: share of the rate of one large product, and microseconds a pair of angles.
PRODUCT_RATE, MICROSECONDS = 0.6, 2.0

#: Rows of a block that `torch.matmul` takes.
_BLOCK = 1000


@dataclass(frozen=True)
class Settings:
    """What is measured.

    Attributes:
        subspaces: S, of which all pairs are taken.
        sizes: entries of a row, N.
        loop_pairs: pairs that the obvious loop is timed on.
        square: rows of the two matrices whose product tells the machine's rate.
    """

    subspaces: int = 500
    rank: int = 16
    sizes: tuple[int, ...] = (256, 1536)
    rounds: int = 5
    loop_pairs: int = 2000
    square: int = 2048
    seed: int = 0

    @classmethod
    def quick(cls) -> Settings:
        """A second's work, which shows that everything runs and measures nothing."""
        return cls(subspaces=12, rank=4, sizes=(32,), rounds=1, loop_pairs=10, square=64)


def run(
    settings: Settings, device: torch.device, tell: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Measure all sizes.

    Args:
        settings: what to measure.
        device: on which device.
        tell: called with a line on what comes next.

    Returns:
        JSON values: per size the seconds of all pairs, of their products and of their angles alone,
        the rates, and the ratio to the loop; the targets with what was reached.
    """
    sizes = []
    for n in settings.sizes:
        tell(f"N = {n}")
        sizes.append(_size(settings, n, device))
    slowest = min(one["product_rate_of_gemm"] for one in sizes)
    longest = max(one["microseconds_of_angles"] for one in sizes)
    targets = [
        {
            "name": "of the rate of one large product, in the products of all pairs",
            "asked": f">= {PRODUCT_RATE:g}",
            "value": slowest,
            "met": slowest >= PRODUCT_RATE,
            "note": "",
        },
        {
            "name": "microseconds a pair for the angles",
            "asked": f"<= {MICROSECONDS:g}",
            "value": longest,
            "met": longest <= MICROSECONDS,
            "note": "",
        },
    ]
    return {"settings": asdict(settings), "sizes": sizes, "targets": targets}


def _size(settings: Settings, n: int, device: torch.device) -> dict[str, Any]:
    count, k = settings.subspaces, settings.rank
    generator = torch.Generator().manual_seed(settings.seed)
    rows = torch.randn(count, k, n, generator=generator).to(device)
    frames = grassmann.frame(rows).float()
    pairs = count * (count - 1) // 2
    left = torch.randn(settings.square, n, generator=generator).to(device)
    products = torch.randn(pairs, k, k, generator=generator).to(device) / math.sqrt(n)
    index = torch.triu_indices(count, count, 1, device=device)[:, : settings.loop_pairs]

    def products_alone() -> None:
        for _ in blocks(frames, count):
            pass

    def loop() -> list[torch.Tensor]:
        return [
            torch.acos(torch.linalg.svdvals(frames[i] @ frames[j].mT).clamp(max=1)).norm()
            for i, j in index.mT.tolist()
        ]

    flat = frames.flatten(0, 1)

    def products_by_matmul() -> None:
        # The same triangle, in the blocks that suit it best.
        for i in range(0, len(flat), _BLOCK):
            for j in range(i, len(flat), _BLOCK):
                flat[i : i + _BLOCK] @ flat[j : j + _BLOCK].mT

    cases: dict[str, Callable[[], object]] = {
        "gemm": lambda: left @ left.mT,
        "products": products_alone,
        "products_by_matmul": products_by_matmul,
        "angles": lambda: pullback_ext.squared_singular_values(products),
        "ours": lambda: grassmann.all_pairs(frames),
        "loop": loop,
    }
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(settings.rounds + 1):
        for name, case in cases.items():
            with Stopwatch(device) as clock:
                case()
            if number:  # the first one warms up
                seconds[name].append(clock.seconds)
    rate = 2 * settings.square**2 * n / statistics.median(seconds["gemm"])
    done = 2 * (count * k) ** 2 / 2 * n / statistics.median(seconds["products"])
    ratios = [
        (one / len(index.T)) / (our / pairs)
        for one, our in zip(seconds["loop"], seconds["ours"], strict=True)
    ]
    return {
        "n": n,
        "pairs": pairs,
        "seconds": {name: statistics.median(values) for name, values in seconds.items()},
        "product_rate_of_gemm": done / rate,
        "microseconds_of_angles": 1e6 * statistics.median(seconds["angles"]) / pairs,
        "ratio_of_the_loop": {
            "median": statistics.median(ratios), "min": min(ratios), "max": max(ratios),
        },
    }  # fmt: skip
