"""One direction carried to many samples: the published order, one by one, against one call.

The published code computes a basis for every target by its power iteration, in its default budget,
and projects on it. The projection itself is the same, so that the ratio is that of the bases, and
the directions agree as far as the loop's bases are accurate, which is told.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

import pullback
from benchmarks.published import power_iteration
from benchmarks.summary import ratios
from benchmarks.timing import Stopwatch
from pullback import LatentModel, maps
from pullback.testing import sample_map
from pullback_ext.intercept import forward_mode_ready


@dataclass(frozen=True)
class Settings:
    """What is measured.

    Attributes:
        t: timestep of all samples, in training units.
        targets: samples that the direction is carried to by one call.
        one_by_one: how many of them the published loop is timed on; it takes each by itself.
        rounds: in each the loop takes its share of those, and the call all targets.
        iterations: of the published loop, its default budget.
    """

    model: str = "digits"
    t: int = 500
    rank: int = 10
    targets: int = 256
    one_by_one: int = 9
    rounds: int = 3
    iterations: int = 50
    seed: int = 0

    @classmethod
    def quick(cls) -> Settings:
        """A second's work, which shows that everything runs and measures nothing."""
        return cls(rank=3, targets=4, one_by_one=2, rounds=1, iterations=3)


class _Bench:
    """The source, its direction, and the targets."""

    def __init__(self, settings: Settings, device: torch.device) -> None:
        self.settings, self.device = settings, device
        self.model: LatentModel = pullback.load(settings.model, device=device)
        x = self.model.sample_latents(settings.targets + 1, settings.t, settings.seed)
        self.source = pullback.local_basis(self.model, x[:1], settings.t, settings.rank)
        self.x = x[1:]
        bound = maps.encoder(self.model).at(self.x, settings.t)
        self.f, self.args = bound.f, bound.args

    def ours(self) -> tuple[pullback.LocalBasis, torch.Tensor]:
        """The bases of all targets, and the direction in each of them."""
        settings = self.settings
        bases = pullback.local_basis(self.model, self.x, settings.t, settings.rank)
        return bases, pullback.transport(0, self.source, bases).v[0]

    def alone(self, sample: int) -> tuple[int, torch.Tensor]:
        """Products for one target, and the direction there, as published."""
        settings = self.settings
        f = sample_map(self.f, *self.args, sample=sample)
        point = self.x[sample : sample + 1]
        found = power_iteration(
            f, point, settings.rank, max_iter=settings.iterations, seed=settings.seed + sample
        )
        rows = found.v.view(settings.rank, *point.shape[1:])
        with forward_mode_ready(), torch.no_grad():
            u = torch.stack([torch.func.jvp(f, (point,), (row[None],))[1][0] for row in rows])
        u = u.flatten(1) / u.flatten(1).norm(dim=1, keepdim=True)
        along = u @ self.source.u[0, 0].flatten()
        v = torch.einsum("k,k...->...", along, rows)
        return found.products + settings.rank, v / v.norm()


def run(
    settings: Settings, device: torch.device, tell: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Measure both.

    Args:
        settings: what to measure.
        device: on which device.
        tell: called with a line on what comes next.

    Returns:
        JSON values: the problem, products and seconds a target, the ratio, and cosines between the
        directions of both.
    """
    tell("the source")
    bench = _Bench(settings, device)
    bench.ours()
    products: list[int] = []
    cosines: list[float] = []
    loop, ours = [], []
    share = settings.one_by_one // settings.rounds
    for number in range(settings.rounds):
        tell(f"round {number + 1} of {settings.rounds}")
        found = []
        with Stopwatch(device) as clock:
            for sample in range(number * share, (number + 1) * share):
                found.append((sample, *bench.alone(sample)))
        loop.append(clock.seconds / share)
        with Stopwatch(device) as clock:
            bases, v = bench.ours()
        ours.append(clock.seconds / settings.targets)
        for sample, count, direction in found:
            products.append(count)
            cosines.append(abs(float((direction * v[sample]).sum())))
    return {
        "settings": asdict(settings),
        "problem": {
            "fingerprint": bench.model.fingerprint,
            "x_shape": list(bench.x.shape[1:]),
            "dtype": str(bench.model.dtype).removeprefix("torch."),
        },
        "published": {
            "label": "published loop, one target at a time",
            "seconds_per_target": loop,
            "products_per_target": statistics.median(products),
        },
        "ours": {
            "label": "ours, all targets by one call",
            "seconds_per_target": ours,
            "products_per_target": float(bases.products.double().mean()),
        },
        "ratio": ratios(loop, ours),
        "cosine_of_directions": {"median": statistics.median(cosines), "min": min(cosines)},
    }
