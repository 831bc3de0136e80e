"""From the bases of a run to the papers' analyses of them, each kept as soon as it is made."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pullback._files import write_json
from pullback.models import LatentModel
from pullback.runs.analyse_bench import MEASURES, AnalysisWatch, Bench
from pullback.runs.analyse_plan import (
    ANALYSES,
    OF_BASES,
    AnalysesPlan,
    check_conditions,
    check_timesteps,
)
from pullback.runs.batch_plan import BatchPlan
from pullback.runs.batch_run import BatchRun
from pullback.runs.batch_store import clear, plan_path, read_plan
from pullback.runs.settings import ANOTHER, check_same, mapping_of, summary_of

#: Of analyses.json.
ANALYSES_FORMAT = "pullback.analyses/1"

_FORMAT = "pullback.analysis/1"


@dataclass(frozen=True, eq=False)
class Analyses:
    """The analyses of a run: made by `analyse`.

    Attributes:
        found: by name, what their `told` gives.
        seconds: that each took.
        left_out: why others were not made.
        settings: all that the numbers depend on, as JSON has it.
        space: in which the tangent spaces lie: "h", or "x" where no u were kept.
    """

    found: dict[str, dict[str, Any]]
    seconds: dict[str, float]
    left_out: dict[str, str]
    settings: dict[str, Any]
    space: str


def analysis_path(folder: Path, name: str) -> Path:
    """Where the numbers of an analysis lie."""
    return folder / f"analysis-{name}.json"


def runs_for_analyses(
    folder: Path,
    model: LatentModel,
    plan: BatchPlan,
    *,
    source: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> tuple[BatchRun, BatchRun | None]:
    """The runs in a folder of analyses: of the null condition, and of conditions to compare.

    The latter have half of the samples, and of more than six timesteps every third. What is to be
    done in them is left to `BatchRun.work`.

    Args:
        folder: of the analyses, which exists.
        model: the model.
        plan: of all samples and timesteps; its conditions, if there are any, are those compared.
        source: as for `BatchRun.create`.
        overwrite: whether runs of before are removed.

    Raises:
        ValueError: as `BatchPlan.check`; there are too few timesteps, samples or conditions; or the
            folder has runs of other plans.
    """
    check_timesteps(plan.timesteps)
    check_conditions(plan.prompts or plan.class_labels or ())
    times = plan.timesteps[:: 3 if len(plan.timesteps) > 6 else 1]
    half = plan.seeds[: -(-len(plan.seeds) // 2)]
    plans = {"bases": replace(plan, prompts=None, prompts_hash=None, class_labels=None)}
    if plan.prompts or plan.class_labels:
        plans["conditions"] = replace(plan, seeds=half, timesteps=times)
    for one in plans.values():
        one.check(model)
    found = []
    for name, one in plans.items():
        there = folder / name
        if overwrite and plan_path(there).exists():
            clear(there)
        if plan_path(there).exists():
            known, settings, _ = read_plan(there)
            # They decide how numbers are rounded, and stay what they were on this machine.
            one = replace(one, threads=known.threads, memory=known.memory)
            check_same(plan_path(there), settings, one.settings(model))
        found.append(BatchRun.create(there, model, one, source=source))
    return found[0], found[1] if len(found) > 1 else None


def analyse(
    run: BatchRun,
    folder: Path,
    plan: AnalysesPlan,
    read: Callable[[], LatentModel],
    *,
    compared: BatchRun | None = None,
    memory: int | None = None,
    overwrite: bool = False,
    watch: AnalysisWatch | None = None,
) -> Analyses:
    """Make analyses of the bases that a run has stored.

    Each is written as soon as it is made, and read again where it is there already.

    Args:
        run: all of whose units are done. Its first condition is analysed.
        folder: for the analyses, which exists.
        plan: which of them.
        read: gives the model of the run; called if an analysis needs it that is not there.
        compared: the run whose conditions are compared; by default the same.
        memory: budget of a pass, in bytes.
        overwrite: whether analyses that are there are made again.
        watch: is told of the progress.

    Returns:
        The `Analyses`: those of the plan, and others that the folder has.

    Raises:
        ValueError: there is no such analysis, the run is not done or too small, the model is not
            that of the run, or the folder has analyses of other settings.
        OSError: a file cannot be written; finished files are complete.

    Cost: the bases' bytes, and what single analyses need: see `pullback.analysis`. Linearity and
    ranks take half of the samples.
    """
    plan.check()
    check_timesteps(run.plan.timesteps)
    if run.plan.paired:
        raise ValueError(
            f"Expected samples under the same conditions, each sample of the run in {run.folder} "
            "has one of its own: start a run that computes all samples under each condition."
        )
    if compared is None and len(run.plan.conditions) > 1:
        compared = run
    settings = plan.settings(run, plan.seeds(run), compared)
    there = {} if overwrite else _read(folder, settings)
    bench = Bench(run, compared, plan, memory, watch)
    of = None if compared is None else compared.plan
    names, left_out = plan.chosen(bench.bases, run.plan, of)
    to_do = [name for name in names if name not in there]
    if not set(to_do) <= set(OF_BASES):
        bench.model = read()
        check_same(plan_path(run.folder), run.settings, run.plan.settings(bench.model), ANOTHER)
    for name in ANALYSES if overwrite else ():
        analysis_path(folder, name).unlink(missing_ok=True)
    for name in to_do:
        begin = time.perf_counter()
        told = MEASURES[name](bench).told()
        there[name] = {
            "format": _FORMAT, "settings": settings, "seconds": time.perf_counter() - begin,
            "found": told,
        }  # fmt: skip
        write_json(analysis_path(folder, name), there[name])
    made = {name: there[name] for name in ANALYSES if name in there}
    return Analyses(
        found={name: one["found"] for name, one in made.items()},
        seconds={name: one.get("seconds", 0.0) for name, one in made.items()},
        left_out={name: why for name, why in left_out.items() if name not in made},
        settings=settings,
        space="x" if bench.bases.u is None else "h",
    )


def _read(folder: Path, settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The analyses that a folder has, by name.

    Raises:
        ValueError: one is damaged, or has other settings.
    """
    found = {}
    for name in ANALYSES:
        path = analysis_path(folder, name)
        if path.exists():
            told = summary_of(path, _FORMAT)
            check_same(path, mapping_of(path, "settings", told.get("settings")), settings)
            mapping_of(path, "found", told.get("found"))
            found[name] = told
    return found
