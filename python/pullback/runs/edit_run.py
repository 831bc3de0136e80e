"""From a plan to a folder of edits, one file per sample, resumable.

As with bases, a file is reused only where all its settings are those that are asked for now, and
files of other settings are never overwritten unasked.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from pullback import editing
from pullback._files import occupied
from pullback._version import __version__
from pullback.geometry import LocalBasis, local_basis
from pullback.models import Inversion, LatentModel, invert
from pullback.runs.edit_plan import QUALITY, EditPlan, EditSample
from pullback.runs.edit_store import (
    SUMMARY_FORMAT,
    SampleEdits,
    check_folder,
    edits_path,
    read,
    write,
)
from pullback.runs.plan import SAMPLING_STEPS


class EditWatch:
    """Is told how `edit_samples` gets on; this one does nothing."""

    def started(self, name: str) -> None:
        """The work on a sample begins."""

    def stepped(self, name: str, doing: str, done: int, steps: int) -> None:
        """A sample's walk took a step; what it is doing, and how many steps of how many."""

    def finished(self, edits: SampleEdits) -> None:
        """The edits of a sample are written, or were there already."""


def edit_samples(
    model: LatentModel,
    plan: EditPlan,
    folder: Path,
    *,
    memory: int | None = None,
    overwrite: bool = False,
    watch: EditWatch | None = None,
) -> list[SampleEdits]:
    """Edit the samples of a plan, or read the edits that the folder already has.

    The folder is this run's alone until it is done, and what killed runs left unfinished in it is
    removed.

    Args:
        model: the model.
        plan: what to edit; call `plan.check(model)` first for early errors.
        folder: an existing folder.
        memory: memory budget of a pass, in bytes.
        overwrite: compute again what is there, whatever its settings.
        watch: is told of the progress.

    Returns:
        One `SampleEdits` per sample, in the plan's order, on the CPU.

    Raises:
        ValueError: a file in the folder has other settings or a sample that is not in the plan, or
            is damaged.
        OSError: another process is at work in the folder, or it cannot be written to.

    Cost: per sample its way to t or its inversion, a local basis where the plan has no directions,
    and what `pullback.sweep` costs.
    """
    watch = EditWatch() if watch is None else watch
    with occupied(folder):
        shared = plan.settings(model)
        settings = {one.name: {**shared, **one.settings()} for one in plan.samples}
        # All is read before anything is computed: what cannot be reused is told at once.
        stored = {
            name: None if overwrite else read(folder, name, wanted, model.latent_shape)
            for name, wanted in settings.items()
        }
        check_folder(folder, plan, shared, overwrite=overwrite)
        done = []
        for sample in plan.samples:
            watch.started(sample.name)
            edits = stored[sample.name]
            if edits is None:
                edits = _edited(model, plan, sample, memory, watch)
                write(folder, edits, settings[sample.name])
            watch.finished(edits)
            done.append(edits)
    return done


def summarize_edits(
    model: LatentModel, plan: EditPlan, edits: Sequence[SampleEdits]
) -> dict[str, Any]:
    """Settings, directions, files and how images were inverted, as plain JSON values without NaN.

    Args:
        model: the model of the plan.
        plan: what was asked for.
        edits: what `edit_samples` returned.
    """
    settings = plan.settings(model)
    return {
        "format": SUMMARY_FORMAT,
        "settings": {**settings, "samples": {one.name: one.settings() for one in plan.samples}},
        "versions": {"pullback": __version__}
        | {name: settings[name] for name in ("torch", "diffusers")},
        "shapes": {"x": list(model.latent_shape)},
        "directions": list(edits[0].names),
        "strengths": list(plan.strengths),
        "samples": [
            {
                "name": one.name,
                "edits": edits_path(Path(), one.name).name,
                "inversion": one.inversion,
            }
            for one in edits
        ],
    }


def _edited(
    model: LatentModel, plan: EditPlan, sample: EditSample, memory: int | None, watch: EditWatch
) -> SampleEdits:
    """The edits of one sample."""

    def told(doing: str) -> Any:
        return lambda done, steps: watch.stepped(sample.name, doing, done, steps)

    x, inversion = _latents(model, plan, sample, told("inverting"))
    found, basis = None, sample.basis
    if plan.directions is None and basis is None:
        found = basis = local_basis(
            model, x, plan.t, plan.rank, plan.tap, sample.condition(model), quality=QUALITY,
            memory=memory,
        )  # fmt: skip
    directions, indices = _directions(plan, basis)
    options = plan.walk(model, sample, stochastic=inversion is not None)
    swept = editing.sweep(
        model, x, plan.t, directions, plan.strengths, indices=indices, way=plan.way,
        mask=plan.mask, window=plan.window, boost=plan.boost, inversion=inversion, memory=memory,
        progress=told("editing"), **options,
    )  # fmt: skip
    if not bool(torch.isfinite(swept.latents).all()):
        raise ValueError(
            f"The edits of {sample.name} contain NaN or Inf: the network overflowed. Expected "
            "smaller strengths, or a model in float32."
        )
    return SampleEdits(
        sample.name,
        x[0].cpu(),
        swept.latents[0].cpu(),
        swept.names,
        _report(inversion),
        None if found is None else found.to("cpu"),
        reused=False,
    )


def _latents(
    model: LatentModel, plan: EditPlan, sample: EditSample, progress: Any
) -> tuple[torch.Tensor, Inversion | None]:
    """A sample's latents at t, `[1, *x_shape]`, and the inversion that they come from."""
    condition = sample.condition(model)
    if sample.data is None:
        seeds = [sample.seed]
        return model.sample_latents(1, plan.t, seeds, condition, steps=SAMPLING_STEPS), None
    data = sample.data[None].to(model.device, model.dtype)
    chosen: dict[str, Any] = {}
    if plan.inversion == "stochastic":
        chosen = {"eta": plan.eta or 1.0, "seed": [sample.seed]}
    inversion = invert(
        model, data, plan.t, method=plan.inversion, corrections=plan.corrections, cond=condition,
        steps=plan.steps, progress=progress, **chosen,
    )  # fmt: skip
    return inversion.x, inversion


def _directions(
    plan: EditPlan, basis: LocalBasis | None
) -> tuple[LocalBasis | tuple[editing.Entry, ...], tuple[int, ...] | None]:
    """What `pullback.sweep` is given: directions, or a basis and indices."""
    if plan.directions is not None:
        return plan.directions, None
    assert basis is not None
    if not plan.features or basis.provenance["wrt"] != "x":
        return basis, plan.indices
    chosen = range(basis.s.shape[1]) if plan.indices is None else plan.indices
    found = [basis.direction(i, space="h").renamed(f"u_{i + 1}") for i in chosen]
    return tuple(found), None


def _report(inversion: Inversion | None) -> dict[str, Any] | None:
    """How well an image was inverted, as JSON has it: a PSNR that is infinite is null."""
    if inversion is None:
        return None
    psnr = float(inversion.psnr[0])
    return {
        "psnr": psnr if torch.isfinite(inversion.psnr[0]) else None,
        "error": float(inversion.error[0]),
        "advice": list(inversion.advice),
    }
