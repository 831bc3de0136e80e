"""`pullback run`, when its options are known: models, runs and what is said of them."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import typer

from pullback import krylov, runs
from pullback.cli.errors import tell
from pullback.cli.progress import Reporter
from pullback.cli.request import MAPS_WITHOUT_TAP
from pullback.cli.run_request import Source, Team
from pullback.cli.tables import print_json, print_run
from pullback.models import LatentModel
from pullback.runs import BatchPlan, BatchRun

#: What a new run has where nothing is said.
_DEFAULTS: dict[str, Any] = {
    "timesteps": (900, 700, 500, 200), "rank": 10, "seeds": (0, 1, 2, 3)
}  # fmt: skip


def execute_start(
    folder: Path,
    given: dict[str, Any],
    accuracy: tuple[str | None, float | None],
    source: Source,
    team: Team,
    *,
    quiet: bool,
    as_json: bool,
) -> None:
    """Make a run where there is none, and go on with it.

    Args:
        folder: of the run.
        given: what is said of its plan.
        accuracy: a quality and a bound, where they are said.
        source: how its model is read.
        team: who computes.
        quiet: print errors only.
        as_json: print the state that it ends in as JSON.

    Raises:
        ValueError: the folder has a run of another plan, with what differs; the model cannot give
            what is asked for.
        typer.Exit: units have failed.
    """
    reporter = Reporter(quiet)
    quality, tol = accuracy
    if quality is not None or tol is not None:
        given["tol"] = krylov.tolerance(quality or "standard", tol)
    model = None
    if runs.plan_path(folder).exists():
        run = BatchRun(folder)
        source = _same(run, given, source)
    else:
        with reporter.waiting("loading the model"):
            model = source(team.device)
            run = BatchRun.create(folder, model, _plan(given, model, team), source=source.told)
    _work(run, model, source, team, reporter, as_json=as_json)


def execute_retry(folder: Path, team: Team, *, quiet: bool, as_json: bool) -> None:
    """Go on with a run and with what failed in it; arguments and errors as `execute_start`."""
    run = BatchRun(folder)
    run.retry()
    _work(run, None, _source_of(run), team, Reporter(quiet), as_json=as_json)


def execute_status(folder: Path, *, as_json: bool) -> None:
    """Print how far a run is."""
    state = BatchRun(folder).status()
    if as_json:
        print_json(state)
    else:
        print_run(state)


def execute_verify(folder: Path, *, as_json: bool) -> None:
    """Print which files are damaged, and end with 1 where there are some."""
    run = BatchRun(folder)
    found = run.verify()
    if as_json:
        print_json({"folder": str(folder), "checked": run.status()["done"], "damaged": found})
    for name, why in found.items() if not as_json else ():
        tell(f"{why} It is {name} now.")
    if found:
        raise typer.Exit(1)
    if not as_json:
        print(f"{run.status()['done']} units are as they were written.")


def execute_cancel(folder: Path) -> None:
    """Have nobody begin another unit."""
    BatchRun(folder).cancel()
    print(f"{folder}: nobody begins another unit. `pullback run retry` goes on.")


def _plan(given: dict[str, Any], model: LatentModel, team: Team) -> BatchPlan:
    """The plan of a new run."""
    if given.get("tap") is not None and given.get("map") in MAPS_WITHOUT_TAP:
        raise typer.BadParameter(f"the map {given['map']} has no tap", param_hint="--tap")
    values = {**_DEFAULTS, "tol": krylov.tolerance("standard", None), **given}
    if "tap" not in values:
        values["tap"] = None if values.get("map") in MAPS_WITHOUT_TAP else model.default_tap
    values.setdefault("memory", runs.default_memory(model.device))
    alone = team.workers == 1
    values.setdefault(
        "threads", torch.get_num_threads() if alone else max(1, _cores() // team.workers)
    )
    return BatchPlan(**values)


def _cores() -> int:
    """Cores that this process may use."""
    known = getattr(os, "sched_getaffinity", None)
    return len(known(0)) if known else os.cpu_count() or 1


def _same(run: BatchRun, given: dict[str, Any], source: Source) -> Source:
    """How the model of a run is read; raises ValueError where something else is asked for."""
    asked: dict[str, Any] = asdict(replace(run.plan, **given))
    there: dict[str, Any] = asdict(run.plan)
    known = _source_of(run)
    for name in ("model", "dtype", "call"):
        value = getattr(source, name)
        there[name], asked[name] = getattr(known, name), value or getattr(known, name)
    runs.check_same(runs.plan_path(run.folder), there, asked, runs.ANOTHER)
    return known


def _source_of(run: BatchRun) -> Source:
    return Source.of(run.folder, run.source, "Go on with it there: BatchRun(folder).work(model).")


def _work(
    run: BatchRun,
    model: LatentModel | None,
    source: Source,
    team: Team,
    reporter: Reporter,
    *,
    as_json: bool,
) -> None:
    with reporter.units(len(run.units), len(run.units) - len(run.left())) as told:
        if team.workers == 1 and not team.ray:
            if model is None:
                model = source(team.device)
            run.work(model, share=team.share, tell=told)
        else:
            del model  # every worker has one of its own
            devices = None if team.device in ("cpu", "cuda") else [team.device]
            run.start(source, team.workers, devices=devices, ray=team.ray, tell=told)
    state = run.status()
    if as_json:
        print_json(state)
    elif not reporter.console.quiet:
        print_run(state)
    if state["failed"]:
        errors = {json.dumps(one["error"]) for one in state["failures"]}
        tell(
            f"{state['failed']} of {state['units']} units failed ({', '.join(sorted(errors))}). "
            "`pullback run status` tells more, and `pullback run retry` tries them again."
        )
        raise typer.Exit(1)
