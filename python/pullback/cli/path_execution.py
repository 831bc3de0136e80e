"""From a request for paths between samples to files, and what is said about them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from pullback import figures, runs
from pullback._files import write_json
from pullback.cli.execution import plan_of
from pullback.cli.progress import Reporter
from pullback.cli.request import Delivery, Request
from pullback.cli.tables import print_json, print_paths
from pullback.cli.transport_execution import STEPS
from pullback.models import LatentModel, denoise
from pullback.runs import PathPlan, SamplePaths

_SHOWN = 11  # points in a row of images
_AT_ONCE = 8  # latents in one pass


def execute_paths(
    request: Request,
    kinds: tuple[str, ...],
    segments: int,
    delivery: Delivery,
    read: Callable[[], LatentModel],
) -> None:
    """Read the model, join the samples, write and report.

    Args:
        request: the samples, and the rank of their tangent spaces.
        kinds: of paths.
        segments: of each path.
        delivery: where it goes, into a folder that exists, and what is shown.
        read: reads the model.

    Raises:
        ValueError: the model cannot give what is asked for, or the folder holds other results.
    """
    reporter = Reporter(delivery.quiet)
    with reporter.warnings():
        with reporter.waiting("loading the model"):
            model = read()
            plan = PathPlan(plan_of(request, model), kinds, segments)
            plan.check(model)
        with reporter.paths(kinds) as watch:
            done = runs.sample_paths(
                model, plan, delivery.folder,
                memory=delivery.memory, overwrite=delivery.overwrite, watch=watch,
            )  # fmt: skip
        summary = runs.summarize_paths(model, plan, done)
        written = _described(done)
        if delivery.overwrite:
            figures.clear(delivery.folder)
        if delivery.figures:
            with reporter.figures(len(done) + 1) as step:
                written = {**_drawn(model, plan, done, delivery.folder, step), **written}
    summary["files"] = sorted(written)
    write_json(runs.summary_path(delivery.folder), summary)
    if delivery.as_json:
        print_json(summary)
    elif not delivery.quiet:
        print_paths(summary, delivery.folder, written)


def _drawn(
    model: LatentModel,
    plan: PathPlan,
    done: Sequence[SamplePaths],
    folder: Path,
    step: Callable[[], None],
) -> dict[str, str]:
    """Write the figures; their names with a line on each."""
    t = plan.samples.timesteps[0]
    curves = figures.path_curves({one.kind: one.distance for one in done}, t=t)
    figures.save(curves, folder / "path.png")
    step()
    start, end = plan.pairs[0]
    count = min(plan.segments + 1, _SHOWN)
    chosen = torch.linspace(0, plan.segments, count, dtype=torch.float64).round().long()
    images = {}
    for one in done:
        images[one.kind] = _images(model, plan, one.points[chosen, 0])
        step()
    page = figures.path_images(
        images,
        places=(chosen / plan.segments).tolist(),
        gaps={one.kind: float(one.gap[0]) for one in done},
        title=f"Paths from seed {start} to seed {end} of {Path(model.name).name} at t = {t}",
    )
    figures.save(page, folder / "images.png")
    return {
        "path.png": "how far the tangent spaces turn on each segment",
        "images.png": f"what the points between seeds {start} and {end} lead to",
    }


def _images(model: LatentModel, plan: PathPlan, points: torch.Tensor) -> torch.Tensor:
    """What points of the first pair lead to, `[P, C, H, W]`."""
    cond = plan.samples.condition(model, slice(0, 1))
    t = plan.samples.timesteps[0]
    clean = [
        denoise(model, part, t, cond=cond, steps=STEPS)
        for part in points.to(model.device, model.dtype).split(_AT_ONCE)
    ]
    return figures.pictured(model, torch.cat(clean))


def _described(done: Sequence[SamplePaths]) -> dict[str, str]:
    """The names of the data files, each with a line about it."""
    lines = {runs.summary_path(Path()).name: "settings, lengths and gaps of the paths"}
    for one in done:
        points, pairs = one.points.shape[:2]
        reused = ", reused" if one.reused else ""
        pair = "1 pair" if pairs == 1 else f"{pairs} pairs"
        lines[runs.path_path(Path(), one.kind).name] = f"{points} points of {pair}{reused}"
    return lines
