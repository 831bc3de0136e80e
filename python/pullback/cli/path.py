"""`pullback path`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeVar

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
from pullback.cli.parsing import parse_call, parse_list, parse_memory, parse_words
from pullback.cli.request import Delivery, Request

_T = TypeVar("_T")


def path(
    model: Model,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the results.")] = Path(
        "pullback-path"
    ),
    seeds: Annotated[
        str, typer.Option(help="Seeds of the samples, of which each two are joined: 0,1,2,3.")
    ] = "0,1",
    timestep: Annotated[
        int, typer.Option("--timestep", "-t", help="Where, in the scheduler's training units.")
    ] = 500,
    kinds: Annotated[
        str, typer.Option(help="Kinds of paths: some of lerp, slerp, shooting.")
    ] = "lerp,slerp,shooting",
    segments: Annotated[int, typer.Option(min=1, help="Segments of each path.")] = 10,
    rank: Annotated[
        int, typer.Option("--rank", "-k", help="Directions per point: its tangent space.")
    ] = 10,
    tap: Tap = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option(help="Prompt of all pairs; give it again for one prompt a pair."),
    ] = None,
    class_label: Annotated[
        str | None,
        typer.Option(help="Class of all pairs, or one for each: 3 or 0,1,2; none if unset."),
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
    """Join pairs of samples by paths, and measure how the tangent spaces turn along them."""
    given = parse_call(call)
    samples = parse_list(seeds, "--seeds")
    labels = () if class_label is None else parse_list(class_label, "--class-label")
    request = Request(
        timesteps=(timestep,),
        rank=rank,
        seeds=samples,
        tap=tap,
        class_labels=_of_both_ends("class label", labels, len(samples) // 2),
        prompts=_of_both_ends("prompt", tuple(prompt or ()), len(samples) // 2),
        quality=quality,
    )
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
        from pullback.cli.path_execution import execute_paths

        execute_paths(
            request, parse_words(kinds), segments, delivery,
            lambda: load(model, device, dtype, given),
        )  # fmt: skip


def _of_both_ends(what: str, given: tuple[_T, ...], pairs: int) -> tuple[_T, ...]:
    """What stands for each pair, for each of its samples; one for all stays one."""
    if len(given) < 2:
        return given
    if len(given) != pairs:
        raise ValueError(
            f"Expected one {what} for all pairs or one for each of the {pairs} pairs, got "
            f"{len(given)}."
        )
    return tuple(one for one in given for _ in range(2))
