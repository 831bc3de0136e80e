"""`pullback analyse`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pullback._files import occupied
from pullback.cli.options import (
    AsJson,
    Call,
    Debug,
    Device,
    Dtype,
    Figures,
    Memory,
    Overwrite,
    Quiet,
    Tap,
)
from pullback.cli.output import make_folder
from pullback.cli.parsing import parse_list, parse_memory, parse_prompts
from pullback.cli.request import Delivery
from pullback.cli.run_request import Source


def analyse(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN",
            help="Folder of `pullback run`, whose bases are analysed as they are; or a model, of "
            "which bases are made: a name of the zoo (digits), a diffusers folder, or a hub id.",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the results.")] = Path(
        "pullback-analyses"
    ),
    everything: Annotated[
        bool, typer.Option("--all", help="All analyses, as without --only.")
    ] = False,
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="One of spectra, frequencies, samples, times, conditions, classes, ablation, "
            "curvature, linearity, ranks, radius; give it again for more."
        ),
    ] = None,
    samples: Annotated[
        int,
        typer.Option(
            min=4, help="Number of samples: of a run its first ones, else seeds 0, 1, ..."
        ),
    ] = 32,
    segments: Annotated[
        int, typer.Option(min=1, help="Of each path between samples; 30 were published.")
    ] = 15,
    pairs: Annotated[
        int | None,
        typer.Option(
            min=2, help="Of samples joined by paths; 50 were published. [half of the samples]"
        ),
    ] = None,
    timesteps: Annotated[
        str | None,
        typer.Option(
            "--timesteps",
            "-t",
            help="Of a model: where, in training units, descending, 3 or more. "
            "[999,900,800,700,600,500,400,300,200,100]",
        ),
    ] = None,
    rank: Annotated[
        int | None,
        typer.Option("--rank", "-k", min=1, help="Of a model: directions a sample. [10]"),
    ] = None,
    tap: Tap = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option(help="Of a model: a prompt to be compared; give it again for each."),
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="Of a model: text file of such prompts, one a line.")
    ] = None,
    class_label: Annotated[
        str | None, typer.Option(help="Of a model: classes to be compared, as 0-9; none if unset.")
    ] = None,
    quality: Annotated[
        str | None, typer.Option(help="Of a model: draft, standard or tight. [standard]")
    ] = None,
    call: Call = None,
    device: Device = "cpu",
    dtype: Dtype = None,
    memory: Memory = None,
    figures: Figures = True,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
    debug: Debug = False,  # noqa: ARG001 - read by `reported`
) -> None:
    """Make the papers' analyses of a run or of a model: are their trends seen? With figures."""
    if everything and only:
        raise typer.BadParameter("give --all or --only, not both", param_hint="--all")
    given: dict[str, Any] = {
        "timesteps": None if timesteps is None else parse_list(timesteps, "--timesteps"),
        "rank": rank,
        "tap": tap,
        **parse_prompts(prompt, prompts),
        "class_labels": None if class_label is None else parse_list(class_label, "--class-label"),
        "quality": quality,
        "dtype": dtype,
        "call": call or None,
    }
    given = {name: value for name, value in given.items() if value is not None}
    if {"prompts", "class_labels"} <= given.keys():
        raise typer.BadParameter("give --prompt or --class-label, not both", param_hint="--prompt")
    asked = {
        "names": tuple(only or ()), "samples": samples, "segments": segments, "pairs": pairs,
    }  # fmt: skip
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

        execute_analyses(Source(run, dtype, tuple(call or ())), device, given, asked, delivery)
