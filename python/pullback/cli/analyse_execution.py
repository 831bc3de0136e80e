"""From a request for analyses to files, and what is said about them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import typer

from pullback import figures, krylov, runs
from pullback._files import replacing, write_json
from pullback.cli.progress import Reporter
from pullback.cli.request import Delivery
from pullback.cli.run_request import Source
from pullback.cli.tables import print_analyses, print_json
from pullback.models import LatentModel
from pullback.runs import AnalysesPlan, BatchPlan, BatchRun

_JSON, _TEXT = "analyses.json", "analyses.md"
_TIMESTEPS = (999, 900, 800, 700, 600, 500, 400, 300, 200, 100)

#: A run, the run of conditions to compare if that is another one, and what reads their model.
_Subject = tuple[BatchRun, BatchRun | None, Callable[[], LatentModel]]


def execute_analyses(
    source: Source, device: str, given: dict[str, Any], asked: dict[str, Any], delivery: Delivery
) -> None:
    """Read the bases, or compute them; analyse, write and report.

    Args:
        source: how the model is read, or the folder of a run in the place of its name.
        device: where the model is put.
        given: what is said of the bases of a model.
        asked: the fields of the `AnalysesPlan`.
        delivery: where it goes, into a folder that exists, and what is shown.

    Raises:
        ValueError: the run or the model cannot give what is asked for, or the folder holds other
            results.
        typer.BadParameter: a run is asked for what is said when it is made.
    """
    reporter = Reporter(delivery.quiet)
    plan = AnalysesPlan(**asked)
    plan.check()
    with reporter.warnings():
        folder = Path(str(source.model))
        if runs.plan_path(folder).exists():
            run, compared, read = _stored(folder, device, given)
        else:
            run, compared, read = _made(source, device, given, plan, delivery, reporter)
        with reporter.analyses() as watch:
            done = runs.analyse(
                run, delivery.folder, plan, read, compared=compared, memory=delivery.memory,
                overwrite=delivery.overwrite, watch=watch,
            )  # fmt: skip
        summary: dict[str, Any] = {
            "format": runs.ANALYSES_FORMAT,
            "settings": done.settings,
            "space": done.space,
            "seconds": done.seconds,
            "left_out": done.left_out,
            "analyses": done.found,
        }
        written = {
            _JSON: "settings, and all numbers with their intervals",
            _TEXT: "what was found, in sentences",
        }
        if delivery.overwrite:
            figures.clear(delivery.folder)
        with reporter.figures(len(done.found)) as step:
            for name, told in done.found.items():
                claims = "; ".join(one["claim"] for one in told["findings"])
                written[runs.analysis_path(Path(), name).name] = f"numbers of {name}"
                if delivery.figures:
                    file = f"analysis-{name}.png"
                    figures.save(figures.draw_analysis(name, told), delivery.folder / file)
                    written[file] = claims
                step()
    summary["files"] = sorted(written)
    with replacing(delivery.folder / _TEXT) as temporary:
        temporary.write_text(_text(summary, run.plan), "utf-8")
    # Last: where it is, all is.
    write_json(delivery.folder / _JSON, summary)
    if delivery.as_json:
        print_json(summary)
    elif not delivery.quiet:
        print_analyses(summary, delivery.folder, written)


def _stored(folder: Path, device: str, given: dict[str, Any]) -> _Subject:
    """A run that is there, by its own plan."""
    if given:
        names = ", ".join(name.replace("_", " ") for name in given if name != "prompts_hash")
        raise typer.BadParameter(
            f"the run in {folder} has its own {names}: leave that out, or start another run",
            param_hint="RUN",
        )
    run = BatchRun(folder)

    def read() -> LatentModel:
        alone = " ".join(f"--only {name}" for name in runs.OF_BASES)
        advice = (
            f"Expected analyses that need none, {alone}; or call pullback.runs.analyse from Python."
        )
        return Source.of(folder, run.source, advice)(device)

    return run, None, read


def _made(
    source: Source,
    device: str,
    given: dict[str, Any],
    plan: AnalysesPlan,
    delivery: Delivery,
    reporter: Reporter,
) -> _Subject:
    """The runs of a model in the folder of its analyses, begun or gone on with."""
    with reporter.waiting("loading the model"):
        model = source(device)
        bases = BatchPlan(
            timesteps=given.get("timesteps", _TIMESTEPS),
            rank=given.get("rank", 10),
            seeds=tuple(range(plan.samples)),
            tap=given.get("tap", model.default_tap),
            tol=krylov.tolerance(given.get("quality", "standard"), None),
            class_labels=given.get("class_labels"),
            prompts=given.get("prompts"),
            prompts_hash=given.get("prompts_hash"),
            keep_u=True,
            memory=delivery.memory or runs.default_memory(model.device),
            threads=torch.get_num_threads(),
        )
        run, compared = runs.runs_for_analyses(
            delivery.folder, model, bases, source=source.told,
            overwrite=delivery.overwrite,
        )  # fmt: skip
    for one in (run,) if compared is None else (run, compared):
        left = len(one.left())
        if left:
            with reporter.units(len(one.units), len(one.units) - left) as told:
                one.work(model, tell=told)
        failures = one.status()["failures"]
        if failures:
            raise ValueError(
                f"{len(failures)} of the {len(one.units)} units of bases in {one.folder} failed "
                f"({failures[0]['error']}: {failures[0]['message']}). `pullback run retry "
                f"{one.folder}` tries them again."
            )
    return run, compared, lambda: model


def _text(summary: dict[str, Any], plan: BatchPlan) -> str:
    """The findings as a page."""
    settings = summary["settings"]
    condition = plan.conditions[0]
    under = "the null condition" if condition is None else f"the condition {condition}"
    lines = [
        f"# Analyses of {Path(settings['model']).name}",
        "",
        f"{len(settings['sample_seeds'])} samples under {under}, timesteps "
        f"{', '.join(map(str, plan.timesteps))} in training units, rank {plan.rank}, tap "
        f"{plan.tap}, fingerprint `{settings['fingerprint']}`. Numbers are means over samples with "
        "95 % intervals of the bootstrap; *seen* and *opposite* are said where the interval of the "
        "paired difference to the control excludes zero.",
        "",
    ]
    for name, told in summary["analyses"].items():
        lines += [f"## {name}", ""]
        lines += [f"- {one['sentence']}" for one in told["findings"]]
        if f"analysis-{name}.png" in summary["files"]:
            lines += ["", f"![{name}](analysis-{name}.png)"]
        lines.append("")
    lines += [f"Left out: {name} ({reason})." for name, reason in summary["left_out"].items()]
    return "\n".join(lines).rstrip() + "\n"
