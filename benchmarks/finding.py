"""Ways to find directions: the published algorithms against ours, on the same problems in one run.

Spectral directions of a feature by power iteration with deflation, local ones by two iterations and
a projection, and boundaries by a machine on the rows. All keep to their published budget and order,
one sample at a time; ours take all samples by one call, and once more one by one. What is told are
ratios to the published one, round by round, and how far each is from the dense float64 truth.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import torch

from benchmarks import finding_boundary
from benchmarks.finding_row import Method, row
from benchmarks.local_published import two_iterations
from benchmarks.spectral_published import deflated_power_iteration
from benchmarks.timing import Stopwatch, peak_bytes
from pullback import LatentModel, directions, load, maps
from pullback.geometry.grassmann import frame
from pullback.testing import in_float64, leading, map_jacobian, sample_map, sine


@dataclass(frozen=True)
class Settings:
    """What is measured.

    Attributes:
        t: timestep of the latents, in training units.
        samples: latents, and rounds: in each a published loop takes one of them, and ours all.
        spectral_rank: vectors of ∂ε/∂h, as published.
        local_rank: directions of the region, as published for faces.
        null: directions of the rest that are projected off, as published for faces.
        region: first and last rows and columns of the region, the last left out.
        iterations: of the published loops at most, as published.
        boundaries: the problems of boundaries.
    """

    model: str = "digits"
    t: int = 500
    samples: int = 8
    spectral_rank: int = 3
    local_rank: int = 1
    null: int = 5
    region: tuple[int, int, int, int] = (4, 10, 5, 11)
    iterations: int = 50
    seed: int = 0
    boundaries: finding_boundary.Settings = field(default_factory=finding_boundary.Settings)

    @classmethod
    def quick(cls) -> Settings:
        """A few seconds' work, which shows that everything runs and measures nothing."""
        small = finding_boundary.Settings.quick()
        return cls(samples=1, spectral_rank=2, null=1, iterations=2, boundaries=small)


class _Problem(Protocol):
    """Directions of some latents, found both ways.

    Attributes:
        name: what is found.
        published_label: how it was.
        shapes: of the problem, for the table.
        truth: the span by dense decompositions, orthonormal rows `[B, k, n]`, float64.
    """

    name: str
    published_label: str
    shapes: dict[str, Any]
    truth: torch.Tensor

    def published(self, sample: int, iterations: int) -> tuple[torch.Tensor, int]:
        """Directions of one sample, `[k, n]`, and its products."""

    def ours(self, samples: slice) -> tuple[torch.Tensor, torch.Tensor]:
        """Directions of some samples, `[B, k, *shape]`, and the products of each, `[B]`."""


class _Spectral:
    """Leading right singular vectors of ∂ε/∂h."""

    name = "spectral"
    published_label = "power iteration with deflation"

    def __init__(self, settings: Settings, model: LatentModel, x: torch.Tensor) -> None:
        self.settings, self.model, self.x = settings, model, x
        self.bound = maps.decoder(model).at(x, settings.t)
        jacobian = map_jacobian(maps.decoder(in_float64(model)), x, settings.t)
        self.truth = leading(jacobian, settings.spectral_rank)[2]
        self.shapes = {
            "jacobian": list(jacobian.shape[1:]),
            "rank": settings.spectral_rank,
            "samples": len(x),
        }

    def published(self, sample: int, iterations: int) -> tuple[torch.Tensor, int]:
        f = sample_map(self.bound.f, *self.bound.args, sample=sample)
        found = deflated_power_iteration(
            f, self.bound.point[sample : sample + 1], self.settings.spectral_rank,
            max_iter=iterations,
        )  # fmt: skip
        return found.v, found.products

    def ours(self, samples: slice) -> tuple[torch.Tensor, torch.Tensor]:
        settings = self.settings
        basis = directions.spectral(
            self.model, self.x[samples], settings.t, settings.spectral_rank, seed=settings.seed
        ).basis
        return basis.v, basis.products


class _Local:
    """Directions of x that change a region of x̂₀, without what changes the rest most."""

    name = "local"
    published_label = "two subspace iterations, and a projection"

    def __init__(self, settings: Settings, model: LatentModel, x: torch.Tensor) -> None:
        self.settings, self.model, self.x = settings, model, x
        top, bottom, left, right = settings.region
        self.mask = torch.zeros(model.latent_shape, dtype=torch.bool)
        self.mask[:, top:bottom, left:right] = True
        self.bound = maps.output(model, "denoised").at(x, settings.t)
        jacobian = map_jacobian(maps.output(in_float64(model), "denoised"), x, settings.t)
        inside = self.mask.flatten()
        own = leading(jacobian[:, inside], settings.local_rank)[2]
        rest = leading(jacobian[:, ~inside], settings.null)[2]
        self.truth = frame(own - (own @ rest.mT) @ rest)
        self.shapes = {
            "jacobian": list(jacobian.shape[1:]),
            "region": int(inside.sum()),
            "rank": settings.local_rank,
            "null": settings.null,
            "samples": len(x),
        }

    def published(self, sample: int, iterations: int) -> tuple[torch.Tensor, int]:
        settings = self.settings
        found = two_iterations(
            sample_map(self.bound.f, *self.bound.args, sample=sample),
            self.x[sample : sample + 1],
            self.mask,
            settings.local_rank,
            settings.null,
            max_iter=iterations,
            seed=settings.seed + sample,
        )
        return found.v, found.products

    def ours(self, samples: slice) -> tuple[torch.Tensor, torch.Tensor]:
        settings = self.settings
        found = directions.local(
            self.model, self.x[samples], settings.t, self.mask, settings.local_rank,
            null=settings.null, seed=settings.seed,
        )  # fmt: skip
        return found.v, found.products


def run(
    settings: Settings, device: torch.device, tell: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Measure all ways.

    Args:
        settings: what to measure.
        device: on which device.
        tell: called with a line on what comes next.

    Returns:
        JSON values: the model, and a row for each problem.
    """
    model = load(settings.model, device=device)
    x = model.sample_latents(settings.samples, settings.t, seed=settings.seed)
    rows = []
    for kind in (_Spectral, _Local):
        tell(f"{kind.name}: dense Jacobians in float64")
        rows.append(_measured(kind(settings, model, x), settings, device, tell))
    rows += finding_boundary.rows(settings.boundaries, model, device, tell)
    return {
        "settings": asdict(settings),
        "problem": {
            "fingerprint": model.fingerprint,
            "dtype": str(model.dtype).removeprefix("torch."),
        },
        "rows": rows,
    }


def _measured(
    problem: _Problem, settings: Settings, device: torch.device, tell: Callable[[str], None]
) -> dict[str, Any]:
    """The row of a problem: a round for each sample, in which all methods have their turn."""
    count, whole = len(problem.truth), slice(None)
    published = Method(problem.published_label, 1)
    together = Method("ours, all samples by one call", count)
    alone = Method("ours, one sample at a time", 1)
    tell(f"{problem.name}: memory and warm-up")
    # All iterations are alike: one shows what they hold.
    published.peak = peak_bytes(lambda: problem.published(0, 1), device)
    together.peak = peak_bytes(lambda: problem.ours(whole), device)
    alone.peak = peak_bytes(lambda: problem.ours(slice(1)), device)
    for sample in range(count):
        tell(f"{problem.name}: round {sample + 1} of {count}")
        here = slice(sample, sample + 1)
        with Stopwatch(device) as clock:
            theirs, products = problem.published(sample, settings.iterations)
        published.add(clock.seconds, products, _sine(theirs, problem.truth[sample]))
        with Stopwatch(device) as clock:
            v, all_products = problem.ours(whole)
        together.add(
            clock.seconds / count, int(all_products[sample]),
            _sine(v[sample], problem.truth[sample]), _sine(theirs, v[sample]),
        )  # fmt: skip
        with Stopwatch(device) as clock:
            v, own_products = problem.ours(here)
        alone.add(
            clock.seconds, int(own_products), _sine(v[0], problem.truth[sample]),
            _sine(theirs, v[0]),
        )  # fmt: skip
    return row(problem.name, problem.shapes, published, {"ours": together, "ours_single": alone})


def _sine(found: torch.Tensor, other: torch.Tensor) -> float:
    """The sine of the largest angle between the spans of rows `[k, ...]` of two kinds."""
    return float(sine(found.flatten(1)[None], frame(other.flatten(1))[None]))
