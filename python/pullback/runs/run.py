"""From a plan to a folder of local bases, one pair of files per timestep, resumable.

A file is reused only where all its settings are those that are asked for now, and files of other
settings are never overwritten unasked.
"""

from __future__ import annotations

import time
from pathlib import Path

from pullback import krylov
from pullback._files import occupied
from pullback.geometry import basis
from pullback.models import LatentModel
from pullback.runs.plan import SAMPLING_STEPS, Plan
from pullback.runs.store import TimestepBases, check_folder, read, write


class Watch:
    """Is told how `discover` gets on; this one does nothing."""

    def started(self, t: int) -> None:
        """The work at a timestep t, in training units, begins."""

    def stepped(self, step: krylov.Progress) -> None:
        """The solver took a step at that timestep."""

    def finished(self, bases: TimestepBases) -> None:
        """The bases of that timestep are written, or were there already."""


def discover(
    model: LatentModel,
    plan: Plan,
    folder: Path,
    *,
    memory: int | None = None,
    overwrite: bool = False,
    watch: Watch | None = None,
) -> list[TimestepBases]:
    """Compute the bases of a plan, or read those that the folder already has.

    The folder is this run's alone until it is done, and what killed runs left unfinished in it is
    removed.

    Args:
        model: the model.
        plan: what to compute; call `plan.check(model)` first for early errors.
        folder: an existing folder.
        memory: memory budget of a pass, in bytes.
        overwrite: compute again what is there, whatever its settings.
        watch: is told of the progress.

    Returns:
        One `TimestepBases` per timestep, in the plan's order, on the CPU.

    Raises:
        ValueError: a file in the folder has other settings or a timestep that is not in the plan,
            or is damaged.
        OSError: another process is at work in the folder, or it cannot be written to.

    Cost: per timestep and sample at most `SAMPLING_STEPS` forward passes, and the products of
    `local_basis`.
    """
    watch = Watch() if watch is None else watch
    with occupied(folder):
        shared = plan.shared_settings(model)
        check_folder(folder, shared, plan.timesteps, overwrite=overwrite)
        # All is read before anything is computed: what cannot be reused is told at once.
        stored = {
            t: None if overwrite else read(folder, t, {**shared, "t": t}) for t in plan.timesteps
        }
        done = []
        for t in plan.timesteps:
            watch.started(t)
            bases = stored[t]
            if bases is None:
                bases = _compute(model, plan, t, memory, watch)
                bases = write(folder, bases, {**shared, "t": t})
            watch.finished(bases)
            done.append(bases)
    return done


def _compute(
    model: LatentModel, plan: Plan, t: int, memory: int | None, watch: Watch
) -> TimestepBases:
    cond = plan.condition(model)
    x = model.sample_latents(len(plan.seeds), t, plan.seeds, cond, steps=SAMPLING_STEPS)
    start = time.perf_counter()
    found = basis(
        plan.map_of(model), x, t, plan.rank, cond,
        tol=plan.tol, seed=plan.seed, memory=memory, progress=watch.stepped,
    ).to("cpu")  # fmt: skip
    seconds = time.perf_counter() - start
    return TimestepBases(t, x.cpu(), found, seconds, reused=False)
