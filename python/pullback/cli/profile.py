"""`pullback profile`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pullback._files import occupied
from pullback.cli.loading import load
from pullback.cli.options import (
    AsJson,
    Call,
    ClassLabel,
    Debug,
    Device,
    Dtype,
    Figures,
    Memory,
    Model,
    Prompt,
    Quality,
    Quiet,
    Tap,
)
from pullback.cli.output import make_folder
from pullback.cli.parsing import parse_call, parse_list, parse_memory, parse_seeds
from pullback.cli.request import Delivery, Request


def profile(
    model: Model,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the results.")] = Path(
        "pullback-profile"
    ),
    samples: Annotated[
        int | None, typer.Option(min=1, help="Number of samples, with seeds 0, 1, ... [default: 4]")
    ] = None,
    seeds: Annotated[
        str | None, typer.Option(help="Seeds of the samples' noise instead: 0,7 or 0-15.")
    ] = None,
    timesteps: Annotated[
        str,
        typer.Option(
            "--timesteps",
            "-t",
            help="Where, in the scheduler's training units; of several all samples, in one batch.",
        ),
    ] = "500",
    rank: Annotated[int, typer.Option("--rank", "-k", help="Directions per sample.")] = 10,
    tap: Tap = None,
    of: Annotated[
        str,
        typer.Option(
            "--map",
            help="What is differentiated: encoder (x to h), decoder (h to noise), or x to noise, "
            "denoised or score.",
        ),
    ] = "encoder",
    prompt: Prompt = None,
    class_label: ClassLabel = None,
    call: Call = None,
    device: Device = "cpu",
    dtype: Dtype = None,
    memory: Memory = None,
    quality: Quality = "standard",
    tol: Annotated[
        float | None, typer.Option(help="The bound on the sine itself, instead of a quality.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the solver's random start.")] = 0,
    repeats: Annotated[
        int, typer.Option(min=1, help="Runs without a profiler, whose median is the wall time.")
    ] = 3,
    advice: Annotated[bool, typer.Option(help="Measure what would be faster.")] = True,
    scaling: Annotated[
        bool,
        typer.Option(
            "--scaling", help="Also the cost over batches of 1 to 64 and ranks of 4 to 100."
        ),
    ] = False,
    limit: Annotated[
        float,
        typer.Option(help="Seconds that one computation of --scaling may be expected to take."),
    ] = 120.0,
    figures: Figures = True,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the profile that the folder holds.")
    ] = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
    debug: Debug = False,  # noqa: ARG001 - read by `reported`
) -> None:
    """Tell where the time of `pullback basis` goes for a model, and what would be faster."""
    request = Request(
        timesteps=parse_list(timesteps, "--timesteps"),
        rank=rank,
        seeds=parse_seeds(samples, seeds),
        map=of,
        tap=tap,
        class_labels=() if class_label is None else parse_list(class_label, "--class-label"),
        prompts=tuple(prompt or ()),
        quality=quality,
        tol=tol,
        seed=seed,
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
    if not limit > 0:
        raise typer.BadParameter(f"expected seconds above 0, got {limit}", param_hint="--limit")
    make_folder(output)
    with occupied(output):
        # Imported when all that can be refused without torch has been.
        from pullback.cli.profile_execution import execute

        execute(
            request, delivery, lambda: load(model, device, dtype, given),
            repeats=repeats, advice=advice, limit=limit if scaling else None,
        )  # fmt: skip
