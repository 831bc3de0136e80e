"""The numbers of one unit: some samples under one condition, at all timesteps of a plan."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from pullback import krylov, sampling
from pullback.geometry import LocalBasis, basis
from pullback.models import LatentModel, denoise
from pullback.operators import rows_at_once
from pullback.runs.batch_plan import BatchPlan, Unit
from pullback.runs.plan import SAMPLING_STEPS, Plan


class Watch:
    """Is told how the bases of some samples get on; this one does nothing."""

    def reused(self, samples: int) -> None:
        """The bases of so many samples were there already, at all timesteps."""

    def started(self, t: int) -> None:
        """The work at a timestep t, in training units, begins."""

    def stepped(self, step: krylov.Progress) -> None:
        """The solver took a step at that timestep."""

    def finished(self, t: int, found: LocalBasis) -> None:
        """The bases of these samples at a timestep t, in training units, are there."""


@dataclass(frozen=True)
class Computed:
    """What is known of a unit when it has been computed.

    Attributes:
        tensors: `[T, B, ...]` by name, at T timesteps of B samples, on the CPU: x, v, s, residual,
            angle_bound, converged, rank, products, and u where the plan keeps it.
        notes: what else a file of them says: seeds, timesteps, why solvers stopped, provenance.
        seconds: that the bases took at each timestep, without the sampling of x.
    """

    tensors: dict[str, torch.Tensor]
    notes: dict[str, Any]
    seconds: list[float]


def samples_at_once(model: LatentModel, plan: BatchPlan) -> int:
    """How many samples of a unit are computed together within the plan's budget of memory.

    It follows from the plan and the model, not from what is free now, and so do the numbers.

    Cost: one forward pass of one sample.
    """
    few = plan.part(plan.units[0], slice(0, 1))
    n, m = few.sizes(model)
    # The solver keeps V and J V of at most that many rows, in float32 or better.
    columns = 11 * plan.rank + 40
    kept = columns * (n + m) * max(4, model.dtype.itemsize)
    x = torch.zeros(1, *model.latent_shape, dtype=model.dtype, device=model.device)
    cond = model.conditions.of(few.condition(model), 1)
    most = rows_at_once(
        lambda: model.predict(x, plan.timesteps[0], cond), model.device, plan.memory
    )
    return max(1, min(plan.batch, most, plan.memory // kept))


def compute(
    model: LatentModel, plan: BatchPlan, unit: Unit, rows: int, watch: Watch | None = None
) -> Computed:
    """Compute a unit, some samples at once.

    Args:
        model: the model of the plan.
        plan: what is computed.
        unit: which part of it.
        rows: samples that go down the walk together.
        watch: is told of the progress.

    Raises:
        As `pullback.basis`.

    Cost: per sample at most `SAMPLING_STEPS` forward passes where the timesteps lie whole strides
    apart, and the products of `basis` at each timestep, less what its start spares.
    """
    watch = Watch() if watch is None else watch
    walks = [
        list(_walk(model, plan.part(unit, slice(first, first + rows)), plan.memory, watch))
        for first in range(0, len(unit.seeds), rows)
    ]
    names = [name for name in LocalBasis.TENSORS if name != "u" or plan.keep_u]
    steps = range(len(plan.timesteps))
    tensors = {
        name: torch.stack(
            [torch.cat([getattr(walk[step].basis, name) for walk in walks]) for step in steps]
        )
        for name in names
    }
    tensors["x"] = torch.stack([torch.cat([walk[step].x for walk in walks]) for step in steps])
    known = walks[0][0].basis.provenance
    notes = {
        "condition": plan.condition_of(unit),
        "seeds": list(unit.seeds),
        "timesteps": list(plan.timesteps),
        "tol": plan.tol,
        "stopped": [[why for walk in walks for why in walk[step].basis.stopped] for step in steps],
        "provenance": {name: value for name, value in known.items() if name != "t"},
    }
    seconds = [sum(walk[step].seconds for walk in walks) for step in steps]
    return Computed(tensors, notes, seconds)


@dataclass(frozen=True)
class _Step:
    """Latents `[B, *x_shape]` at one timestep and their bases, on the CPU."""

    x: torch.Tensor
    basis: LocalBasis
    seconds: float


def _walk(model: LatentModel, part: Plan, memory: int, watch: Watch) -> Iterator[_Step]:
    """Samples at one timestep after another, the bases at each started from those before."""
    cond = part.condition(model)
    stride = sampling.stride(model.schedule, SAMPLING_STEPS)
    mapped = part.map_of(model)
    x, above, init = None, 0, None
    for t in part.timesteps:
        watch.started(t)
        if x is None or (above - t) % stride:
            x = model.sample_latents(len(part.seeds), t, part.seeds, cond, steps=SAMPLING_STEPS)
        else:
            x = denoise(model, x, above, t, cond=cond, steps=SAMPLING_STEPS)
        start = time.perf_counter()
        found = basis(
            mapped, x, t, part.rank, cond,
            tol=part.tol, seed=part.seed, init=init, memory=memory, progress=watch.stepped,
        )  # fmt: skip
        above, init = t, found.v
        kept = found.to("cpu")
        seconds = time.perf_counter() - start
        watch.finished(t, kept)
        yield _Step(x.cpu(), kept, seconds)
