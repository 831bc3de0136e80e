"""From a request for global directions to files, and what is said about them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from pullback import editing, figures, runs
from pullback._files import write_json
from pullback.cli.execution import plan_of
from pullback.cli.progress import Reporter
from pullback.cli.request import Delivery, Request
from pullback.cli.tables import print_global, print_json
from pullback.cli.transport_execution import STEPS, described_bases
from pullback.models import LatentModel
from pullback.runs import GlobalPlan, SharedDirections

_SHOWN = 5  # samples in the figure


def execute_global(
    request: Request,
    how: str,
    strength: float,
    delivery: Delivery,
    read: Callable[[], LatentModel],
) -> None:
    """Read the model, average, write and report.

    Args:
        request: the samples and their bases.
        how: the way to average.
        strength: of the edits in the figure.
        delivery: where it goes, into a folder that exists, and what is shown.
        read: reads the model.

    Raises:
        ValueError: the model cannot give what is asked for, or the folder holds other results.
    """
    reporter = Reporter(delivery.quiet)
    with reporter.warnings():
        with reporter.waiting("loading the model"):
            model = read()
            plan = GlobalPlan(plan_of(request, model), how)
            plan.check(model)
        with reporter.bases(plan.bases) as watch:
            done = runs.share_directions(
                model, plan, delivery.folder,
                memory=delivery.memory, overwrite=delivery.overwrite, watch=watch,
            )  # fmt: skip
        summary = {**runs.summarize_global(model, plan, done), "strength": strength}
        written = _described(delivery.folder, done)
        if delivery.overwrite:
            figures.clear(delivery.folder)
        if delivery.figures:
            count = min(len(done.bases.x), _SHOWN)
            with reporter.figures(count + 1) as step:
                _draw(model, plan, done, strength, delivery, step)
            written = {"global.png": f"{count} samples along each direction", **written}
    summary["files"] = sorted(written)
    write_json(runs.summary_path(delivery.folder), summary)
    reporter.shortfalls([done.bases])
    if delivery.as_json:
        print_json(summary)
    elif not delivery.quiet:
        print_global(summary, delivery.folder, written)


def _draw(
    model: LatentModel,
    plan: GlobalPlan,
    done: SharedDirections,
    strength: float,
    delivery: Delivery,
    step: Callable[[], None],
) -> None:
    """Write the figure."""
    shown = range(min(len(done.bases.x), _SHOWN))
    images = []
    for sample in shown:
        x = done.bases.x[[sample]].to(model.device)
        along = [done.localised.direction(sample, index) for index in range(len(done.found))]
        swept = editing.sweep(
            model, x, done.bases.t, along, [-strength, 0.0, strength], steps=STEPS,
            cond=plan.bases.condition(model, slice(sample, sample + 1)), memory=delivery.memory,
        )  # fmt: skip
        images.append(figures.pictured(model, swept.latents[0]))
        step()
    page = figures.global_grid(
        torch.stack(images, 1),
        done.localised.retained[:, list(shown)],
        samples=[f"seed {seed}" for seed in plan.bases.seeds[: len(shown)]],
        strength=strength,
        title=f"Global directions of {Path(model.name).name} at t = {done.bases.t} ({plan.how}), "
        f"{len(shown)} of {len(done.bases.x)} samples",
    )
    figures.save(page, delivery.folder / "global.png")
    step()


def _described(folder: Path, done: SharedDirections) -> dict[str, str]:
    """The names of the data files, each with a line about it."""
    count, samples = len(done.found), len(done.bases.x)
    lines = {
        runs.summary_path(Path()).name: "settings, agreement, retained norms",
        runs.global_path(Path()).name: f"{count} directions of {samples} samples",
    }
    for index in range(count):
        lines[runs.direction_path(Path(), index + 1).name] = f"direction {index + 1} of them"
    return {**lines, **described_bases(folder, done.bases)}
