"""From a request for analyses to files, and what is said about them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from pullback import figures, runs
from pullback._files import replacing, write_json
from pullback.cli.execution import plan_of
from pullback.cli.progress import Reporter
from pullback.cli.request import Delivery, Request
from pullback.cli.tables import print_analyses, print_json
from pullback.models import LatentModel
from pullback.runs import AnalysesPlan

_JSON, _TEXT = "analyses.json", "analyses.md"


def execute_analyses(
    request: Request,
    names: tuple[str, ...],
    delivery: Delivery,
    read: Callable[[], LatentModel],
) -> None:
    """Read the model, analyse, write and report.

    Args:
        request: the samples and their bases; its prompts or class labels are those compared.
        names: of the analyses; none for all.
        delivery: where it goes, into a folder that exists, and what is shown.
        read: reads the model.

    Raises:
        ValueError: the model cannot give what is asked for, or the folder holds other results.
    """
    reporter = Reporter(delivery.quiet)
    with reporter.warnings():
        with reporter.waiting("loading the model"):
            model = read()
            samples = plan_of(replace(request, class_labels=(), prompts=()), model)
            plan = AnalysesPlan(samples, names, request.class_labels, request.prompts)
            plan.check(model)
            settings = plan.settings(model)
            runs.check_analyses(delivery.folder / _JSON, settings, overwrite=delivery.overwrite)
        with reporter.analyses() as watch:
            done = runs.analyse(model, plan, memory=delivery.memory, watch=watch)
        summary: dict[str, Any] = {
            "format": runs.ANALYSES_FORMAT,
            "settings": settings,
            "space": done.space,
            "seconds": done.seconds,
            "left_out": done.left_out,
            "analyses": {name: one.told() for name, one in done.found.items()},
        }
        written = {
            _JSON: "settings, and all numbers with their intervals",
            _TEXT: "what was found, in sentences",
        }
        if delivery.overwrite:
            figures.clear(delivery.folder)
        if delivery.figures:
            with reporter.figures(len(done.found)) as step:
                for name, told in summary["analyses"].items():
                    file = f"analysis-{name}.png"
                    figures.save(figures.draw_analysis(name, told), delivery.folder / file)
                    written[file] = "; ".join(one["claim"] for one in told["findings"])
                    step()
    summary["files"] = sorted(written)
    with replacing(delivery.folder / _TEXT) as temporary:
        temporary.write_text(_text(summary, plan), "utf-8")
    # Last: where it is, all is.
    write_json(delivery.folder / _JSON, summary)
    if delivery.as_json:
        print_json(summary)
    elif not delivery.quiet:
        print_analyses(summary, delivery.folder, written)


def _text(summary: dict[str, Any], plan: AnalysesPlan) -> str:
    """The findings as a page."""
    settings = summary["settings"]
    samples = plan.samples
    lines = [
        f"# Analyses of {Path(settings['model']).name}",
        "",
        f"{len(samples.seeds)} samples, timesteps {', '.join(map(str, samples.timesteps))} in "
        f"training units, rank {samples.rank}, tap {samples.tap}, fingerprint "
        f"`{settings['fingerprint']}`. Numbers are means over samples with 95 % intervals of the "
        "bootstrap; *seen* and *opposite* are said where the interval of the paired difference to "
        "the control excludes zero.",
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
