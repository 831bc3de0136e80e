"""From a request for edits to files and what is said about them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import torch

from pullback import directions, figures, runs
from pullback._files import write_json
from pullback.cli.edit_request import EditRequest
from pullback.cli.pictures import data_of, mask_of, name_of
from pullback.cli.progress import Reporter
from pullback.cli.request import Delivery
from pullback.cli.tables import print_edits, print_json
from pullback.directions import Direction
from pullback.editing import Entry, Sweep
from pullback.geometry import LocalBasis
from pullback.models import LatentModel
from pullback.runs import EditPlan, EditSample, SampleEdits

_T = TypeVar("_T")

_TIMESTEP = 500  # where nothing says another one


def execute_edit(request: EditRequest, delivery: Delivery, read: Callable[[], LatentModel]) -> None:
    """Read the model, edit, write and report.

    Args:
        request: what is to be edited.
        delivery: where it goes, into a folder that exists, and what is shown.
        read: reads the model.

    Raises:
        ValueError: the model cannot give what is asked for, or the folder holds other results.
    """
    reporter = Reporter(delivery.quiet)
    with reporter.warnings():
        with reporter.waiting("loading the model"):
            model = read()
            plan = _plan(request, model)
            plan.check(model)
        with reporter.edits(len(plan.samples)) as watch:
            edits = runs.edit_samples(
                model, plan, delivery.folder,
                memory=delivery.memory, overwrite=delivery.overwrite, watch=watch,
            )  # fmt: skip
    summary = runs.summarize_edits(model, plan, edits)
    written = _described(edits)
    if delivery.overwrite:
        figures.clear(delivery.folder)
    if delivery.figures or delivery.film:
        album = _album(model, plan, edits, film=delivery.film)
        with reporter.figures(album.steps) as step:
            written = {**album.draw(delivery.folder, step), **written}
    summary["files"] = sorted(written)
    write_json(runs.summary_path(delivery.folder), summary)
    reporter.inversions(edits)
    if delivery.as_json:
        print_json(summary)
    elif not delivery.quiet:
        print_edits(edits, delivery.folder, written)


def _plan(request: EditRequest, model: LatentModel) -> EditPlan:
    """The plan of a request for a model."""
    basis = None if request.basis is None else LocalBasis.load(request.basis)
    entries = tuple(map(_entry, request.directions))
    samples = _samples(request, model, basis)
    t = _timestep(request, basis, entries)
    way = runs.way_of(
        request.way,
        scale=request.scale,
        repeats=request.repeats,
        rank=request.rank,
        tap=request.tap,
    )
    return EditPlan(
        samples=samples,
        t=t,
        strengths=request.strengths,
        directions=entries or None,
        indices=request.indices,
        rank=request.rank,
        tap=request.tap or (None if entries or basis else model.default_tap),
        way=way,
        mask=None if request.mask is None else mask_of(request.mask),
        window=request.window,
        boost=request.boost,
        guidance=request.guidance,
        negative=request.negative,
        steps=request.steps,
        eta=request.eta,
        inversion=request.inversion,
        corrections=request.corrections,
    )


def _entry(source: str) -> Entry:
    """The edit of a file, or the direction of a folder or of the hub."""
    path = Path(source).expanduser()
    if not path.is_file():
        return Direction.from_pretrained(source)
    parts = directions.load(path)
    return parts if len(parts) > 1 else parts[0]


def _timestep(request: EditRequest, basis: LocalBasis | None, entries: Sequence[Entry]) -> int:
    if request.t is not None:
        return request.t
    given = list(map(_start, entries)) if basis is None else basis.provenance["t"]
    found = {int(t) for t in given if t is not None}
    if len(found) > 1:
        raise ValueError(
            f"The directions were found at the timesteps {', '.join(map(str, sorted(found)))}. "
            "Expected --timestep to say at which one to edit."
        )
    return found.pop() if found else _TIMESTEP


def _start(entry: Entry) -> int | None:
    """Where an edit begins: at the noisiest timestep of its directions, in training units."""
    parts = [entry] if isinstance(entry, Direction) else entry
    return max((one.t for one in parts if one.t is not None), default=None)


def _samples(
    request: EditRequest, model: LatentModel, basis: LocalBasis | None
) -> tuple[EditSample, ...]:
    count = len(request.images or request.seeds)
    labels = _for_each("class label", request.class_labels, count)
    prompts = _for_each("prompt", request.prompts, count)
    bases = _bases(basis, request.seeds, count)
    seeds = request.seeds or (0,) * count
    names = [name_of(path) for path in request.images] or [f"seed{seed}" for seed in seeds]
    data: list[torch.Tensor | None] = [data_of(model, path) for path in request.images]
    return tuple(
        EditSample(*each)
        for each in zip(names, seeds, data or [None] * count, labels, prompts, bases, strict=True)
    )


def _bases(
    basis: LocalBasis | None, seeds: Sequence[int], count: int
) -> Sequence[LocalBasis | None]:
    """The basis of each sample: by its seed where the basis knows the seeds of its samples."""
    if basis is None:
        return [None] * count
    run = basis.provenance.get("run")
    known = run.get("settings", {}).get("seeds") if isinstance(run, dict) else None
    if seeds and isinstance(known, list) and set(seeds) <= set(known):
        return [basis[[known.index(seed)]] for seed in seeds]
    if len(basis) == 1:  # of another sample, for all
        return [basis] * count
    if len(basis) == count and known is None:
        return [basis[[sample]] for sample in range(count)]
    whose = f"the seeds {known}" if known is not None else f"{len(basis)} samples"
    raise ValueError(
        f"Expected a basis of the {count} samples, or of one, got one of {whose}. Ask for some of "
        "those, or save one direction (basis.direction(index, sample).save) and give --direction."
    )


def _for_each(what: str, given: tuple[_T, ...], count: int) -> Sequence[_T | None]:
    """What stands for all samples, or for each, for each of them."""
    if len(given) not in (0, 1, count):
        raise ValueError(
            f"Expected one {what} for all samples or one for each of the {count}, got {len(given)}."
        )
    return [None] * count if not given else given * count if len(given) == 1 else given


def _album(
    model: LatentModel, plan: EditPlan, edits: Sequence[SampleEdits], *, film: bool
) -> figures.Album:
    """What the figures of edits show."""
    latents = torch.stack([one.latents for one in edits])
    sweep = Sweep(
        latents, plan.strengths, edits[0].names, plan.t, -1, len(latents[0].flatten(0, 1))
    )
    title = f"Edits of {Path(model.name).name} at t = {plan.t}"
    return figures.Album(model, title, sweep, [_called(one.name) for one in edits], film)


def _called(name: str) -> str:
    return name.replace("seed", "seed ", 1) if name.removeprefix("seed").isdigit() else name


def _described(edits: Sequence[SampleEdits]) -> dict[str, str]:
    """The names of the data files, each with a line about it."""
    lines = {runs.summary_path(Path()).name: "settings, versions, inversions"}
    for one in edits:
        directions, strengths = one.latents.shape[:2]
        reused = ", reused" if one.reused else ""
        lines[runs.edits_path(Path(), one.name).name] = (
            f"{directions} directions at {strengths} strengths{reused}"
        )
        if one.basis is not None:
            lines[runs.edit_basis_path(Path(), one.name).name] = "the basis that was computed"
    return lines
