"""What bases cost over the number of samples, and over the rank."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from typing_extensions import Unpack

from pullback import figures, maps
from pullback._files import write_json
from pullback._memory import free_bytes
from pullback._numbers import whole
from pullback.geometry import LocalBasis, Options, basis
from pullback.models import Condition
from pullback.profiling.clock import seconds

#: The batches that are measured, as far as they fit.
BATCHES = (1, 2, 4, 8, 16, 32, 64)

#: The ranks that are measured, as far as they fit.
RANKS = (4, 10, 25, 50, 100)

FORMAT = "pullback.scaling/1"

#: Of the free memory, what the vectors of a computation may take.
_SHARE = 0.5


@dataclass(frozen=True)
class ScalingPoint:
    """One computation.

    Attributes:
        samples: in the batch.
        rank: directions per sample.
        seconds: of wall time.
        products: single-sample products with J and its transpose, checks included.
        converged: samples that reached the bound.
    """

    samples: int
    rank: int
    seconds: float
    products: int
    converged: int

    @property
    def per_sample(self) -> float:
        """Seconds of a sample."""
        return self.seconds / self.samples

    @property
    def per_direction(self) -> float:
        """Seconds of a direction of a sample."""
        return self.seconds / self.samples / self.rank


@dataclass(frozen=True)
class Scaling:
    """Cost over the batch at one rank, and over the rank in one batch.

    Attributes:
        over_samples: by rising number of samples.
        over_rank: by rising rank.
        left_out: what was not measured, each with the reason.
    """

    over_samples: tuple[ScalingPoint, ...]
    over_rank: tuple[ScalingPoint, ...]
    left_out: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """All numbers."""

        def told(points: Sequence[ScalingPoint]) -> list[dict[str, Any]]:
            return [
                {
                    **asdict(one),
                    "seconds_per_sample": one.per_sample,
                    "seconds_per_direction": one.per_direction,
                }
                for one in points
            ]

        return {
            "format": FORMAT,
            "over_samples": told(self.over_samples),
            "over_rank": told(self.over_rank),
            "left_out": list(self.left_out),
        }

    def figure(self) -> Any:
        """The cost of a sample and of a direction as curves, a matplotlib figure.

        It is that of `pullback.figures.cost_curves`.

        Raises:
            ValueError: no batch or no rank was measured.
        """
        return figures.cost_curves(
            {one.samples: one.per_sample for one in self.over_samples},
            {one.rank: one.per_direction for one in self.over_rank},
            rank=self.over_samples[0].rank if self.over_samples else 0,
            samples=self.over_rank[0].samples if self.over_rank else 0,
        )

    def save(self, folder: str | os.PathLike[str], *, figure: bool = True) -> None:
        """Write scaling.json and scaling.png.

        Args:
            folder: is made where it is missing.
            figure: whether scaling.png is drawn.

        Raises:
            OSError: the file cannot be written.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "scaling.json", self.as_json())
        if figure:
            figures.save(self.figure(), folder / "scaling.png")


def scaling(
    map: maps.Map,
    x: torch.Tensor,
    t: int | torch.Tensor,
    rank: int,
    cond: Condition | None = None,
    *,
    batches: Sequence[int] = BATCHES,
    ranks: Sequence[int] = RANKS,
    samples: int = 4,
    limit: float = 120.0,
    watch: Callable[[ScalingPoint], None] = lambda _: None,
    **options: Unpack[Options],
) -> Scaling:
    """What `pullback.basis` costs for more and more samples, and for higher and higher ranks.

    Args:
        map: what is differentiated, and with respect to what.
        x: latents x_t, `[B, *x_shape]`, of which the first are taken; B is the largest batch.
        t: their timestep in training units: one for all, or int64 `[B]`.
        rank: directions per sample while the batch grows.
        cond: as for `pullback.basis`, of all B samples.
        batches: numbers of samples, of which those above B are left out.
        ranks: ranks, of which those above the map's least size are left out.
        samples: in the batch while the rank grows, at most B.
        limit: seconds that one computation may be expected to take: larger ones are left out.
        watch: called with every point.
        **options: as for `pullback.basis`.

    Raises:
        ValueError: a number is not positive, or as `pullback.basis`.
        TypeError, MemoryError: as for `pullback.basis`.

    Cost: all the bases, and those of the first point once more.
    """
    sizes = sorted({whole("batches", one, low=1) for one in batches})
    ranks = sorted({whole("ranks", one, low=1) for one in ranks})
    samples = min(whole("samples", samples, low=1), len(x))
    if not limit > 0:
        raise ValueError(f"Expected a limit above 0 seconds, got {limit}.")
    timesteps = map.model.schedule.timesteps(t, len(x), x.device)
    condition = map.model.conditions.of(cond, len(x))
    found: list[LocalBasis] = []

    def compute(count: int, k: int) -> ScalingPoint:
        chosen = {name: value[:count] for name, value in condition.items()}

        def run() -> None:
            found[:] = [basis(map, x[:count], timesteps[:count], k, chosen, **options)]

        spent = seconds(run, x.device)
        one = found[0]
        return ScalingPoint(count, k, spent, int(one.products.sum()), int(one.converged.sum()))

    compute(1, rank)  # what only the first computation of a process takes
    n, m = found[0].v[0, 0].numel(), found[0].u[0, 0].numel()
    left_out: list[str] = []

    def grown(pairs: Sequence[tuple[int, int]]) -> tuple[ScalingPoint, ...]:
        points: list[ScalingPoint] = []
        for count, k in pairs:
            expected = points[-1].per_direction * count * k if points else 0.0
            reason = _too_much(count, k, len(x), (n, m), expected, limit, x)
            if reason is not None:
                left_out.append(f"{count} samples, rank {k}: {reason}")
                continue
            points.append(compute(count, k))
            watch(points[-1])
        return tuple(points)

    over_samples = grown([(count, rank) for count in sizes])
    over_rank = grown([(samples, k) for k in ranks])
    return Scaling(over_samples, over_rank, tuple(left_out))


def _too_much(
    count: int,
    rank: int,
    given: int,
    sizes: tuple[int, int],
    expected: float,
    limit: float,
    x: torch.Tensor,
) -> str | None:
    """Why a computation is left out; None where it is not."""
    if count > given:
        return f"only {given} samples were given"
    if rank > min(sizes):
        return f"the map has no more than {min(sizes)} directions"
    # What the solver keeps of vectors, by its own account.
    need = 4 * count * rank * sum(sizes) * max(4, x.element_size())
    free = free_bytes(x.device)
    if free is not None and need > _SHARE * free:
        return f"its vectors take {need / 2**30:.1f} GiB"
    if expected > limit:
        return f"it would take about {expected:.0f} s"
    return None
