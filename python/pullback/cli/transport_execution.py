"""From a request to carry a direction to files, and what is said about them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from pullback import editing, figures, runs
from pullback._files import write_json
from pullback.cli.execution import described_run, plan_of
from pullback.cli.progress import Reporter
from pullback.cli.request import Delivery, Request
from pullback.cli.tables import print_json, print_transport
from pullback.models import LatentModel
from pullback.runs import TimestepBases, TimestepTransport, TransportPlan

#: Steps over the whole schedule for the images of figures.
STEPS = 25

_SHOWN = 9  # samples in a figure of images, the source among them
_MATRIX = 32  # samples in a matrix


def execute_transport(
    request: Request,
    index: int,
    back: str,
    strength: float,
    delivery: Delivery,
    read: Callable[[], LatentModel],
) -> None:
    """Read the model, carry, write and report.

    Args:
        request: the samples, of which the first is the source, and their bases.
        index: which direction of the source.
        back: the way back from h to latents.
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
            plan = TransportPlan(plan_of(request, model), index, back)
            plan.check(model)
        with reporter.bases(plan.bases) as watch:
            done = runs.transport_samples(
                model, plan, delivery.folder,
                memory=delivery.memory, overwrite=delivery.overwrite, watch=watch,
            )  # fmt: skip
        summary = {**runs.summarize_transport(model, plan, done), "strength": strength}
        written = _described(delivery.folder, done)
        if delivery.overwrite:
            figures.clear(delivery.folder)
        if delivery.figures:
            with reporter.figures(len(done) + 1) as step:
                drawn = _drawn(model, plan, done, summary, delivery, step)
            written = {**drawn, **written}
    summary["files"] = sorted(written)
    write_json(runs.summary_path(delivery.folder), summary)
    reporter.shortfalls([one.bases for one in done])
    if delivery.as_json:
        print_json(summary)
    elif not delivery.quiet:
        print_transport(summary, delivery.folder, written)


def _drawn(
    model: LatentModel,
    plan: TransportPlan,
    done: Sequence[TimestepTransport],
    summary: dict[str, Any],
    delivery: Delivery,
    step: Callable[[], None],
) -> dict[str, str]:
    """Write the figures; their names with a line on each."""
    called = [f"seed {seed}" for seed in plan.bases.seeds]
    name, strength = Path(model.name).name, summary["strength"]
    blocks = []
    for one in done:
        images = _images(model, plan, one, strength, delivery.memory)
        kept = one.carried.retained[0, :_SHOWN]
        blocks.append(figures.TransportBlock(one.t, images, kept))
        step()
    count = len(called) - 1
    others = "other samples" if count < _SHOWN else f"the first {_SHOWN - 1} of {count} samples"
    page = figures.transport_grid(
        blocks,
        samples=called[:_SHOWN],
        strength=strength,
        chance=summary["chance"]["retained"],
        title=f"$v_{{{plan.index + 1}}}$ of {called[0]} of {name}, carried to {others}",
    )
    figures.save(page, delivery.folder / "transport.png")
    matrix = figures.distance_matrix(
        {one.t: one.distances[:_MATRIX, :_MATRIX] for one in done},
        samples=called[:_MATRIX],
        random=summary["chance"]["distance"],
        title=f"Tangent spaces of samples of {name}, rank {plan.bases.rank}",
    )
    figures.save(matrix, delivery.folder / "angles.png")
    step()
    return {
        "transport.png": "the direction carried, and copied",
        "angles.png": "distances of the tangent spaces",
    }


def _images(
    model: LatentModel,
    plan: TransportPlan,
    one: TimestepTransport,
    strength: float,
    memory: int | None,
) -> torch.Tensor:
    """What the samples become, `[4, S, C, H, W]`: still, carried +, carried −, copied +."""
    copied = one.bases.basis.direction(plan.index)
    rows = []
    for sample in range(min(len(one.bases.x), _SHOWN)):
        x = one.bases.x[[sample]].to(model.device)
        cond = plan.bases.condition(model, slice(sample, sample + 1))
        options: dict[str, Any] = {"cond": cond, "steps": STEPS, "memory": memory}
        own = [one.carried.direction(sample)]
        carried = editing.sweep(model, x, one.t, own, [0.0, strength, -strength], **options)
        as_it_is = editing.sweep(model, x, one.t, [copied], [strength], **options)
        rows.append(torch.cat([carried.latents[0, 0], as_it_is.latents[0, 0]]))
    return figures.pictured(model, torch.stack(rows, 1))


def _described(folder: Path, done: Sequence[TimestepTransport]) -> dict[str, str]:
    """The names of the data files, each with a line about it."""
    lines = {runs.summary_path(Path()).name: "settings, retained norms, distances"}
    for one in done:
        name = runs.transport_path(Path(), one.t).name
        lines[name] = f"carried to {len(one.bases.x) - 1} targets"
    for one in done:
        lines |= described_bases(folder, one.bases)
    return lines


def described_bases(folder: Path, bases: TimestepBases) -> dict[str, str]:
    """The names of the files of bases in a folder of results, each with a line about it."""
    reused = ", reused" if bases.reused else ""
    latents, basis = runs.latents_path(Path(), bases.t), runs.basis_path(Path(), bases.t)
    return {
        **described_run(folder / runs.BASES, f"{runs.BASES}/"),
        f"{runs.BASES}/{latents.name}": f"latents x_t{reused}",
        f"{runs.BASES}/{basis.name}": f"u, s, v of all samples{reused}",
    }
