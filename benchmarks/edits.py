"""Sweeps of edits: each edit by itself, as published, against all together by this library.

Both start from the same float32 latents and directions, take the same DDIM steps and arrive at the
same images, which is checked before anything is told; only what is computed at one time differs.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from benchmarks.loop import edited_one_by_one
from benchmarks.summary import ratios
from benchmarks.timing import Stopwatch, peak_bytes
from pullback import LatentModel, load, local_basis, sweep

#: Largest difference between images of both, whose range is 2, that rounding alone can make. In a
#: batch of another size sums are taken in another order, and steps carry the difference on.
SAME = 1e-3


@dataclass(frozen=True)
class Settings:
    """What is measured.

    Attributes:
        t: timestep of the edits, in training units.
        steps: of the whole schedule.
        samples: latents, and rounds: in each the loop edits one of them, and the sweeps all.
        strength: the largest; the others lie evenly between it and its negative.
        few: rows of a pass in the sweep that is to take little memory.
    """

    model: str = "digits"
    t: int = 500
    steps: int = 50
    samples: int = 4
    directions: int = 16
    strengths: int = 9
    strength: float = 8.0
    few: int = 16
    seed: int = 0

    @classmethod
    def quick(cls) -> Settings:
        """A second's work, which shows that everything runs and measures nothing."""
        return cls(steps=5, samples=2, directions=2, strengths=3, few=2)

    @property
    def edits(self) -> int:
        """How many images are made."""
        return self.samples * self.directions * self.strengths


class _Bench:
    """The latents, their directions, and the methods that edit along them."""

    def __init__(self, settings: Settings, device: torch.device) -> None:
        self.settings, self.device = settings, device
        self.model: LatentModel = load(settings.model, device=device)
        self.x = self.model.sample_latents(
            settings.samples, settings.t, settings.seed, steps=settings.steps
        )
        self.basis = local_basis(
            self.model, self.x, settings.t, settings.directions, quality="draft"
        )
        top = settings.strength
        self.strengths = torch.linspace(-top, top, settings.strengths).tolist()
        self.ours_rows = 0

    def loop(
        self, samples: slice, directions: slice = slice(None), strengths: int | None = None
    ) -> torch.Tensor:
        """Edits of some samples, by some directions and the first strengths, one by one."""
        return edited_one_by_one(
            self.model.network,
            self.model.schedule.scheduler,
            self.model.conditions.of(None, 1),
            self.x[samples],
            self.basis.v[samples, directions],
            self.strengths[:strengths],
            self.settings.t,
            steps=self.settings.steps,
        )

    def one(self) -> torch.Tensor:
        """One edit by itself."""
        return self.loop(slice(1), slice(1), 1)

    def ours(self, rows: int | None = None) -> torch.Tensor:
        """All of them by one call."""
        settings = self.settings
        found = sweep(
            self.model, self.x, settings.t, self.basis, self.strengths, steps=settings.steps,
            rows=rows,
        )  # fmt: skip
        if rows is None:
            self.ours_rows = found.rows
        return found.latents


def run(
    settings: Settings, device: torch.device, tell: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Measure all methods.

    Args:
        settings: what to measure.
        device: on which device.
        tell: called with a line on what comes next.

    Returns:
        JSON values: the problem, the largest difference between images, and the methods.

    Raises:
        RuntimeError: the methods do not give the same images, so that times mean nothing.
    """
    tell("directions")
    bench = _Bench(settings, device)
    methods: dict[str, Callable[[], torch.Tensor]] = {
        "loop": bench.one,
        "ours": bench.ours,
        "ours_few": lambda: bench.ours(settings.few),
    }
    tell("memory and warm-up")
    peaks = {
        # All passes of the loop are alike: one edit shows what they hold, beside all images.
        "loop": peak_bytes(bench.one, device) + settings.edits * bench.x[0].nbytes,
        "ours": peak_bytes(bench.ours, device),
        "ours_few": peak_bytes(methods["ours_few"], device),
    }
    rows = {"loop": 1, "ours": min(bench.ours_rows, settings.edits), "ours_few": settings.few}
    for method in (bench.one, bench.ours):
        method()
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    differences = dict.fromkeys(methods, 0.0)
    for sample in range(settings.samples):
        tell(f"round {sample + 1} of {settings.samples}")
        with Stopwatch(device) as clock:
            alone = bench.loop(slice(sample, sample + 1))
        seconds["loop"].append(clock.seconds / alone.shape[:3].numel())
        for name in ("ours", "ours_few"):
            with Stopwatch(device) as clock:
                images = methods[name]()
            seconds[name].append(clock.seconds / settings.edits)
            apart = float((images[sample] - alone[0]).abs().max())
            differences[name] = max(differences[name], apart)
    if not max(differences.values()) <= SAME:
        raise RuntimeError(f"The methods make different images: {differences}.")
    return {
        "settings": asdict(settings),
        "problem": {
            "fingerprint": bench.model.fingerprint,
            "x_shape": list(bench.x.shape[1:]),
            "dtype": str(bench.model.dtype).removeprefix("torch."),
            "edits": settings.edits,
        },
        "methods": {
            name: {
                "label": _label(name, settings),
                "rows": rows[name],
                "seconds_per_edit": {
                    "median": statistics.median(seconds[name]),
                    "all": seconds[name],
                },
                "ratio_to_ours": ratios(seconds[name], seconds["ours"]),
                "peak_bytes": peaks[name],
                "largest_difference": differences[name],
            }
            for name in methods
        },
    }


def _label(name: str, settings: Settings) -> str:
    return {
        "loop": "published loop, one edit at a time",
        "ours": "ours, as many rows as it chooses",
        "ours_few": f"ours, {settings.few} rows at a time",
    }[name]
