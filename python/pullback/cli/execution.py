"""From a request to files and what is said about them; what `basis` and `demo` share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from pullback import editing, figures, krylov, runs
from pullback._files import write_json
from pullback.cli.progress import Reporter
from pullback.cli.request import MAPS_WITHOUT_TAP, Delivery, Request
from pullback.cli.run_request import Source
from pullback.cli.tables import print_json, print_results
from pullback.models import LatentModel
from pullback.runs import Plan, TimestepBases

_T = TypeVar("_T")

#: The edits of a demonstration.
_STRENGTHS = (-8.0, -4.0, 0.0, 4.0, 8.0)
_EDITED, _ALONG, _EDITING_STEPS = 2, 3, 25


def execute(request: Request, delivery: Delivery, source: Source, device: str) -> None:
    """Read the model, compute, write and report.

    Args:
        request: what is to be computed.
        delivery: where it goes, into a folder that exists, and what is shown.
        source: how the model is read.
        device: where it computes.

    Raises:
        ValueError: the model cannot give what is asked for, or the folder holds other results.
    """
    reporter = Reporter(delivery.quiet)
    with reporter.waiting("loading the model"):
        model = source(device)
        plan = plan_of(request, model)
        plan.check(model)
    with reporter.bases(plan) as watch:
        bases = runs.discover(
            model, plan, delivery.folder,
            memory=delivery.memory, overwrite=delivery.overwrite, source=source.told, watch=watch,
        )  # fmt: skip
    summary = runs.summarize(model, bases)
    write_json(runs.summary_path(delivery.folder), summary)
    written = _described(delivery.folder, bases)
    if delivery.overwrite:
        figures.clear(delivery.folder)
    if delivery.figures:
        gallery = _gallery(model, plan, bases)
        with reporter.figures(gallery.steps) as step:
            written = {**gallery.draw(delivery.folder, step), **written}
    if delivery.edits:
        written = {**_edits(model, plan, bases, delivery.folder), **written}
    reporter.shortfalls(bases)
    if delivery.as_json:
        print_json(summary)
    elif not delivery.quiet:
        print_results(summary, delivery.folder, written)


def plan_of(request: Request, model: LatentModel) -> Plan:
    """The plan of a request for a model."""
    count = len(request.seeds)
    tap = request.tap
    if tap is None and request.map not in MAPS_WITHOUT_TAP:
        tap = model.default_tap
    return Plan(
        timesteps=request.timesteps,
        rank=request.rank,
        seeds=request.seeds,
        tap=tap,
        tol=krylov.tolerance(request.quality, request.tol),
        seed=request.seed,
        class_labels=_one_for_each(request.class_labels, count),
        prompts=_one_for_each(request.prompts, count),
        map=request.map,
    )


def _one_for_each(given: tuple[_T, ...], count: int) -> tuple[_T, ...] | None:
    """What stands for all samples, repeated for each; None where nothing is given."""
    return (given * count if len(given) == 1 else given) or None


def _gallery(model: LatentModel, plan: Plan, bases: Sequence[TimestepBases]) -> figures.Gallery:
    """What the figures of a run show."""
    title = f"Local latent bases of {Path(model.name).name}"
    if plan.map != "encoder":
        title += f", for the map x → {plan.map}"
    return figures.Gallery(
        model,
        title,
        latents={item.t: item.x for item in bases},
        bases={item.t: item.basis for item in bases},
        seeds=plan.seeds,
        condition=lambda samples: plan.condition(model, samples),
    )


def _edits(
    model: LatentModel, plan: Plan, bases: Sequence[TimestepBases], folder: Path
) -> dict[str, str]:
    """Write a figure of the first samples, edited along their directions at one timestep."""
    item = bases[len(bases) // 2]
    few = slice(0, _EDITED)
    x = item.x[few].to(model.device)
    swept = editing.sweep(
        model, x, item.t, item.basis[few], _STRENGTHS, indices=range(_ALONG),
        cond=plan.condition(model, few), steps=_EDITING_STEPS,
    )  # fmt: skip
    called = [f"seed {seed}" for seed in plan.seeds[few]]
    page = figures.edit_grid(swept, figures.shown(model, swept.latents), samples=called)
    figures.save(page, folder / "edits.png")
    return {"edits.png": f"{len(x)} samples edited at t = {item.t}, by strength"}


def _described(folder: Path, bases: Sequence[TimestepBases]) -> dict[str, str]:
    """The names of the data files, each with a line about it."""
    lines = {
        runs.summary_path(Path()).name: "settings, versions, accuracy, products, seconds",
        **described_run(folder),
    }
    for item in bases:
        count, rank = item.basis.s.shape
        reused = ", reused" if item.reused else ""
        lines[runs.latents_path(Path(), item.t).name] = (
            f"{count} latents x_t at t = {item.t}{reused}"
        )
        lines[runs.basis_path(Path(), item.t).name] = (
            f"u, s, v of {count} samples, rank {rank}{reused}"
        )
    return lines


def described_run(folder: Path, inside: str = "") -> dict[str, str]:
    """The files of the run in a folder, each kind with a line about it.

    Args:
        folder: of the run.
        inside: what their names begin with, where it lies in the folder of results.
    """
    count = len(runs.BatchRun(folder).units)
    units = f"{count} unit{'s' * (count > 1)}"
    return {
        f"{inside}{runs.plan_path(Path()).name}": "the plan of the run",
        f"{inside}units/": f"the numbers of {units} of samples",
        f"{inside}receipts/": "who computed them, and when",
    }
