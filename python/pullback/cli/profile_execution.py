"""From a request to a profile, its files, and what is said about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from pullback import profiling
from pullback.cli.execution import plan_of
from pullback.cli.profile_table import print_profile
from pullback.cli.progress import Reporter
from pullback.cli.request import Delivery, Request
from pullback.cli.tables import print_json
from pullback.models import Condition, LatentModel
from pullback.runs import Plan

#: What the folder may hold.
_FILES = {
    "profile.json": "wall time, shares, products, machine, advice",
    "profile.png": "the shares as bars",
    "trace.json.gz": "the profiled run; https://ui.perfetto.dev opens it",
    "scaling.json": "cost over samples and rank",
    "scaling.png": "the same as curves",
}


def execute(
    request: Request,
    delivery: Delivery,
    read: Callable[[], LatentModel],
    *,
    repeats: int,
    advice: bool,
    limit: float | None,
) -> None:
    """Read the model, profile, write and report.

    Args:
        request: what is to be computed.
        delivery: where the profile goes, into a folder that exists, and what is shown.
        read: reads the model.
        repeats: runs without a profiler.
        advice: measure what would be faster.
        limit: seconds of a computation of the scaling; None for no scaling.

    Raises:
        ValueError: the model cannot give what is asked for.
        FileExistsError: the folder holds a profile that is not to be replaced.
    """
    folder, reporter = delivery.folder, Reporter(delivery.quiet)
    _make_room(folder, overwrite=delivery.overwrite)

    with reporter.waiting("loading the model"):
        model = read()
        plan = plan_of(request, model)
        plan.check(model)
    options: dict[str, Any] = {"tol": plan.tol, "seed": plan.seed, "memory": delivery.memory}
    with reporter.waiting("profiling"):
        x, t, cond = _samples(model, plan)
        found = profiling.profile(
            plan.map_of(model), x, t, plan.rank, cond, repeats=repeats, advice=advice, **options
        )
    found.save(folder, figure=delivery.figures)
    told = found.as_json()
    scaled = None
    if limit is not None:
        # As many seeds as the largest batch, on from those that were asked for.
        more = replace(plan, seeds=tuple(range(max(profiling.BATCHES))), **_alike(plan))
        with reporter.waiting("cost over samples and rank"):
            x, t, cond = _samples(model, replace(more, timesteps=plan.timesteps[:1]))
            scaled = profiling.scaling(
                plan.map_of(model), x, t, plan.rank, cond,
                samples=len(plan.seeds), limit=limit, **options,
            )  # fmt: skip
        scaled.save(folder, figure=delivery.figures)
        told["scaling"] = scaled.as_json()
    if delivery.as_json:
        print_json(told)
    elif not delivery.quiet:
        written = {name: line for name, line in _FILES.items() if (folder / name).exists()}
        print_profile(found, scaled, folder, written)


def _make_room(folder: Path, *, overwrite: bool) -> None:
    """Remove the files of an earlier profile, where they may be replaced."""
    for name in _FILES:
        if (folder / name).exists():
            if not overwrite:
                raise FileExistsError(
                    f"{folder / name} is there already: expected a folder without a profile. "
                    "Choose another --output folder, or replace it with --overwrite."
                )
            (folder / name).unlink()


def _samples(model: LatentModel, plan: Plan) -> tuple[torch.Tensor, torch.Tensor, Condition | None]:
    """Latents of all samples at all timesteps, one after the other, as one batch."""
    cond, count = plan.condition(model), len(plan.seeds)
    steps = [model.sample_latents(count, t, plan.seeds, cond) for t in plan.timesteps]
    t = torch.tensor(plan.timesteps, device=model.device).repeat_interleave(count)
    if cond is not None and len(steps) > 1:
        cond = {name: torch.cat([value] * len(steps)) for name, value in cond.items()}
    return torch.cat(steps), t, cond


def _alike(plan: Plan) -> dict[str, Any]:
    """The labels and prompts of a plan for the largest batch: those of its samples, in turn."""
    most = max(profiling.BATCHES)
    given = {"class_labels": plan.class_labels, "prompts": plan.prompts}
    return {
        name: None if one is None else tuple(one[i % len(one)] for i in range(most))
        for name, one in given.items()
    }
