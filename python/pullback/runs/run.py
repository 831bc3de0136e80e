"""Bases of a few samples, looked at at once: a run by one process, published as files of timesteps.

What is computed, stored and checked is a `BatchRun`; the files of `store` are made of its units.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from pullback._files import occupied
from pullback.models import LatentModel
from pullback.runs.batch_plan import BatchPlan, default_memory
from pullback.runs.batch_run import BatchRun
from pullback.runs.batch_store import clear, plan_path
from pullback.runs.batch_unit import Watch, samples_at_once
from pullback.runs.plan import Plan
from pullback.runs.results import check_command, check_summary
from pullback.runs.settings import check_same
from pullback.runs.store import (
    SUMMARY_FORMAT,
    TimestepBases,
    check_unpublished,
    clear_published,
    publish,
)

_LARGEST_BATCH = 32


def discover(
    model: LatentModel,
    plan: Plan,
    folder: Path,
    *,
    memory: int | None = None,
    overwrite: bool = False,
    source: Mapping[str, Any] | None = None,
    watch: Watch | None = None,
) -> list[TimestepBases]:
    """Compute the bases of a plan, or what is left of them in a folder, and publish them.

    The folder is this process's alone until it is done, and what killed runs left unfinished in it
    is removed.

    Args:
        model: the model.
        plan: what to compute; call `plan.check(model)` first for early errors.
        folder: an existing folder.
        memory: memory budget of a pass, in bytes; by default that of the folder's run, or
            `default_memory`.
        overwrite: replace the run that the folder holds, whatever its plan.
        source: how the model is read again, as `BatchRun.create` keeps it.
        watch: is told of the progress.

    Returns:
        As `finish`.

    Raises:
        ValueError: the folder has a run or files of another plan, or a damaged file.
        RuntimeError: units failed.
        OSError: another process is at work in the folder, or it cannot be written to.

    Cost: as `BatchRun.create` and `BatchRun.work`.
    """
    with occupied(folder):
        check_command(folder, SUMMARY_FORMAT)
        run = begin(model, plan, folder, memory=memory, overwrite=overwrite, source=source)
        check_summary(folder, SUMMARY_FORMAT, run.settings, overwrite=overwrite)
        return finish(run, model, plan, watch=watch)


def begin(
    model: LatentModel,
    plan: Plan,
    folder: Path,
    *,
    memory: int | None,
    overwrite: bool,
    source: Mapping[str, Any] | None = None,
) -> BatchRun:
    """The run of a plan in a folder: the one that is there, or a new one; as `discover`.

    A new one has as many samples in a unit as its budget of memory computes at once.
    """
    threads, path = torch.get_num_threads(), plan_path(folder)
    if path.exists() and not overwrite:
        run = BatchRun(folder)
        there = run.plan
        wanted = BatchPlan.of(
            plan, batch=there.batch, memory=memory or there.memory, threads=there.threads
        )
        check_same(path, run.settings, wanted.settings(model))
        return run
    if overwrite:
        clear_published(folder)
        clear(folder)
    else:
        check_unpublished(folder)
    budget = memory or default_memory(model.device)
    wanted = BatchPlan.of(plan, batch=_LARGEST_BATCH, memory=budget, threads=threads)
    wanted = replace(wanted, batch=samples_at_once(model, wanted))
    return BatchRun.create(folder, model, wanted, source=source)


def finish(
    run: BatchRun, model: LatentModel, plan: Plan, *, watch: Watch | None = None
) -> list[TimestepBases]:
    """Compute what is left of a run, with what had failed in it, and publish all of it.

    Args:
        run: as `begin` gave it.
        model: its model.
        plan: its plan, as `begin` took it.
        watch: is told of the progress.

    Returns:
        One `TimestepBases` per timestep, in the plan's order, on the CPU.

    Raises:
        As `discover`.
    """
    watch = Watch() if watch is None else watch
    run.retry()
    reused = not run.left()
    watch.reused(sum(len(unit.seeds) for unit in run.done()))
    # In their order: what is left after an interruption are the last samples.
    run.work(model, share=(0, 1), watch=watch)
    _check_done(run)
    found = publish(run, reused=reused)
    return [found[t] for t in plan.timesteps]


def _check_done(run: BatchRun) -> None:
    """Raise unless all units of a run are there."""
    state = run.status()
    for failure in state["failures"]:
        raise RuntimeError(
            f"The bases of {state['failed']} of {state['units']} units of samples could not be "
            f"computed: {failure['message'] or failure['error']} What is finished is kept: mend "
            "that, and call this again."
        )
    if state["left"]:
        raise RuntimeError(
            f"The run in {run.folder} was cancelled by somebody. Call this again to go on with it."
        )
