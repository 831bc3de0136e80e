"""`pullback edit`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pullback._files import occupied
from pullback.cli.edit_request import EditRequest
from pullback.cli.loading import load
from pullback.cli.options import (
    AsJson,
    Call,
    ClassLabel,
    Debug,
    Device,
    Dtype,
    Memory,
    Model,
    Overwrite,
    Prompt,
    Quiet,
)
from pullback.cli.output import make_folder
from pullback.cli.parsing import (
    parse_call,
    parse_list,
    parse_memory,
    parse_numbers,
    parse_window,
)
from pullback.cli.request import Delivery


def edit(
    model: Model,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the results.")] = Path(
        "pullback-edit"
    ),
    seeds: Annotated[
        str | None,
        typer.Option(help="Samples by the seeds of their noise: 0,7 or 0-15. [default: 0,1]"),
    ] = None,
    image: Annotated[
        list[Path] | None,
        typer.Option(help="Image to invert and edit instead; give it again for more."),
    ] = None,
    basis: Annotated[
        Path | None,
        typer.Option(help="Directions: a file of local bases, each sample's its own."),
    ] = None,
    direction: Annotated[
        list[str] | None,
        typer.Option(
            help="Directions: a file, folder or hub id of one, or a file of several that are one "
            "edit; give it again for more. Without --basis and --direction, local bases are "
            "computed."
        ),
    ] = None,
    index: Annotated[
        str | None, typer.Option(help="Which directions of a basis, from 0: 0,1. [default: all]")
    ] = None,
    timestep: Annotated[
        int | None,
        typer.Option(
            "--timestep",
            "-t",
            help="Where to edit, in the scheduler's training units. [default: where basis or "
            "direction were found, else 500]",
        ),
    ] = None,
    strengths: Annotated[
        str, typer.Option("--strengths", "-a", help="How far, in the directions' units.")
    ] = "-8,-4,0,4,8",
    rank: Annotated[
        int, typer.Option("--rank", "-k", help="Directions of bases that are computed.")
    ] = 3,
    tap: Annotated[
        str | None,
        typer.Option(help="Where h is read for them; see `pullback taps MODEL`."),
    ] = None,
    way: Annotated[
        str | None,
        typer.Option(
            help="addition, guidance or shooting for directions of latents, injection or "
            "asymmetric for those of features. [default: addition, or injection]"
        ),
    ] = None,
    scale: Annotated[float, typer.Option(help="Of the way guidance.")] = 1.0,
    repeats: Annotated[int, typer.Option(help="Of the way guidance.")] = 16,
    mask: Annotated[
        Path | None, typer.Option(help="Image of where to edit: black keeps, white edits.")
    ] = None,
    window: Annotated[
        str | None,
        typer.Option(help="From which timestep to which to apply it at every step: 500,300."),
    ] = None,
    boost: Annotated[
        int | None, typer.Option(help="Timestep below which steps are stochastic.")
    ] = None,
    prompt: Prompt = None,
    class_label: ClassLabel = None,
    negative: Annotated[str | None, typer.Option(help="Prompt to guide away from.")] = None,
    guidance: Annotated[
        float, typer.Option(help="Scale of classifier-free guidance; 1 is none.")
    ] = 1.0,
    steps: Annotated[int, typer.Option(help="Steps over the whole schedule.")] = 50,
    eta: Annotated[float, typer.Option(help="Stochasticity of steps, from 0 to 1.")] = 0.0,
    inversion: Annotated[
        str, typer.Option(help="How images are inverted: ddim or stochastic.")
    ] = "ddim",
    corrections: Annotated[
        int, typer.Option(help="Fixed-point iterations a step of a ddim inversion.")
    ] = 1,
    call: Call = None,
    device: Device = "cpu",
    dtype: Dtype = None,
    memory: Memory = None,
    figures: Annotated[bool, typer.Option(help="Draw figures beside the edits.")] = True,
    gif: Annotated[bool, typer.Option("--gif", help="Film the strengths, too.")] = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
    debug: Debug = False,  # noqa: ARG001 - read by `reported`
) -> None:
    """Edit samples or images along directions, and write them with a summary and figures."""
    images = tuple(image or ())
    chosen = None if seeds is None else parse_list(seeds, "--seeds")
    request = EditRequest(
        seeds=chosen or (() if images else (0, 1)),
        images=images,
        basis=basis,
        directions=tuple(direction or ()),
        indices=None if index is None else parse_list(index, "--index"),
        t=timestep,
        strengths=parse_numbers(strengths, "--strengths"),
        rank=rank,
        tap=tap,
        way=way,
        scale=scale,
        repeats=repeats,
        mask=mask,
        window=None if window is None else parse_window(window),
        boost=boost,
        class_labels=() if class_label is None else parse_list(class_label, "--class-label"),
        prompts=tuple(prompt or ()),
        negative=negative,
        guidance=guidance,
        steps=steps,
        eta=eta,
        inversion=inversion,
        corrections=corrections,
    )
    given = parse_call(call)
    delivery = Delivery(
        output,
        memory=None if memory is None else parse_memory(memory),
        overwrite=overwrite,
        figures=figures,
        film=gif,
        quiet=quiet,
        as_json=as_json,
    )
    make_folder(output)
    # Before anything that takes long: that the folder can be written to, and is nobody else's.
    with occupied(output):
        # Imported when all that can be refused without torch has been.
        from pullback.cli.edit_execution import execute_edit

        execute_edit(request, delivery, lambda: load(model, device, dtype, given))
