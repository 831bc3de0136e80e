"""`pullback transport`."""

from __future__ import annotations

import math
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


def transport(
    model: Model,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the results.")] = Path(
        "pullback-transport"
    ),
    source: Annotated[int, typer.Option(help="Seed of the sample whose direction is carried.")] = 0,
    seeds: Annotated[
        str, typer.Option(help="Seeds of the samples that it is carried to: 1,7 or 1-15.")
    ] = "1-5",
    timesteps: Annotated[
        str, typer.Option("--timesteps", "-t", help="Where, in the scheduler's training units.")
    ] = "900,500,200",
    index: Annotated[int, typer.Option(help="Which direction of the source, from 0.")] = 0,
    rank: Annotated[
        int, typer.Option("--rank", "-k", help="Directions per sample: its tangent space.")
    ] = 10,
    back: Annotated[
        str,
        typer.Option(
            help="How a direction of h becomes one of latents: isometric, pullback or vjp."
        ),
    ] = "isometric",
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
    """Carry a direction of one sample to others, and compare it with the mere copy."""
    targets = parse_list(seeds, "--seeds")
    if source in targets:
        raise typer.BadParameter(
            f"the source, seed {source}, is among the targets {seeds}", param_hint="--seeds"
        )
    request = Request(
        timesteps=parse_list(timesteps, "--timesteps"),
        rank=rank,
        seeds=(source, *targets),
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
        from pullback.cli.transport_execution import execute_transport

        execute_transport(
            request, index, back, strength, delivery, lambda: load(model, device, dtype, given)
        )


def check_strength(strength: float) -> None:
    """Raise unless it is a finite number above 0.

    Raises:
        typer.BadParameter: it is none.
    """
    if not math.isfinite(strength) or strength <= 0:
        raise typer.BadParameter(
            f"expected a finite number above 0, got {strength:g}", param_hint="--strength"
        )
