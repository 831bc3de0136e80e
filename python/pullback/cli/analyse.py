"""`pullback analyse`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pullback._files import occupied
from pullback.cli.loading import load
from pullback.cli.options import (
    AsJson,
    Call,
    Debug,
    Device,
    Dtype,
    Figures,
    Memory,
    Model,
    Overwrite,
    Quality,
    Quiet,
    Tap,
)
from pullback.cli.output import make_folder
from pullback.cli.parsing import parse_call, parse_list, parse_memory
from pullback.cli.request import Delivery, Request


def analyse(
    model: Model,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the results.")] = Path(
        "pullback-analyses"
    ),
    samples: Annotated[
        int, typer.Option(min=4, help="Number of samples, with seeds 0, 1, ...")
    ] = 32,
    timesteps: Annotated[
        str,
        typer.Option("--timesteps", "-t", help="Where, in training units, descending: 3 or more."),
    ] = "999,900,800,700,600,500,400,300,200,100",
    rank: Annotated[int, typer.Option("--rank", "-k", help="Directions per sample.")] = 10,
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="One of spectra, frequencies, samples, times, conditions, classes, ablation, "
            "curvature, linearity, ranks, radius; give it again for more; all if unset."
        ),
    ] = None,
    tap: Tap = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option(help="A prompt to be compared with others; give it again for each."),
    ] = None,
    class_label: Annotated[
        str | None, typer.Option(help="Classes to be compared: 0-9; none if unset.")
    ] = None,
    call: Call = None,
    device: Device = "cpu",
    dtype: Dtype = None,
    memory: Memory = None,
    quality: Quality = "standard",
    figures: Figures = True,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
    debug: Debug = False,  # noqa: ARG001 - read by `reported`
) -> None:
    """Make the papers' analyses of a model: whether their trends are seen, with figures."""
    labels = () if class_label is None else parse_list(class_label, "--class-label")
    request = Request(
        timesteps=parse_list(timesteps, "--timesteps"),
        rank=rank,
        seeds=tuple(range(samples)),
        tap=tap,
        class_labels=labels,
        prompts=tuple(prompt or ()),
        quality=quality,
    )
    given = parse_call(call)
    delivery = Delivery(
        output,
        memory=None if memory is None else parse_memory(memory),
        overwrite=overwrite,
        figures=figures,
        quiet=quiet,
        as_json=as_json,
    )
    make_folder(output)
    # Before anything that takes long: that the folder can be written to, and is nobody else's.
    with occupied(output):
        # Imported when all that can be refused without torch has been.
        from pullback.cli.analyse_execution import execute_analyses

        execute_analyses(
            request, tuple(only or ()), delivery, lambda: load(model, device, dtype, given)
        )
