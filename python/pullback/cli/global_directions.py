"""`pullback global`."""

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
    Overwrite,
    Prompt,
    Quality,
    Quiet,
    Strength,
    Tap,
)
from pullback.cli.output import make_folder
from pullback.cli.parsing import parse_call, parse_list, parse_memory
from pullback.cli.request import Delivery, Request
from pullback.cli.transport import check_strength


def global_directions(
    model: Model,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the results.")] = Path(
        "pullback-global"
    ),
    seeds: Annotated[str, typer.Option(help="Seeds of the samples: 0,7 or 0-15.")] = "0-15",
    timestep: Annotated[
        int, typer.Option("--timestep", "-t", help="Where, in the scheduler's training units.")
    ] = 900,
    rank: Annotated[int, typer.Option("--rank", "-k", help="Directions.")] = 5,
    how: Annotated[
        str,
        typer.Option(
            help="How the samples' directions are averaged: nearest, hungarian, frechet, or metric "
            "for the leading directions of the mean pullback metric."
        ),
    ] = "frechet",
    strength: Strength = 8.0,
    tap: Tap = None,
    prompt: Prompt = None,
    class_label: ClassLabel = None,
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
    """Find directions that many samples share, and what each sample keeps of them."""
    request = Request(
        timesteps=(timestep,),
        rank=rank,
        seeds=parse_list(seeds, "--seeds"),
        tap=tap,
        class_labels=() if class_label is None else parse_list(class_label, "--class-label"),
        prompts=tuple(prompt or ()),
        quality=quality,
    )
    check_strength(strength)
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
        from pullback.cli.global_execution import execute_global

        execute_global(request, how, strength, delivery, lambda: load(model, device, dtype, given))
