"""`pullback basis` and `pullback demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pullback._files import occupied
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
from pullback.cli.parsing import parse_list, parse_memory, parse_seeds
from pullback.cli.request import Delivery, Request
from pullback.cli.run_request import Source


def basis(
    model: Model,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the results.")] = Path(
        "pullback-basis"
    ),
    samples: Annotated[
        int | None, typer.Option(min=1, help="Number of samples, with seeds 0, 1, ... [default: 4]")
    ] = None,
    seeds: Annotated[
        str | None, typer.Option(help="Seeds of the samples' noise instead: 0,7 or 0-15.")
    ] = None,
    timesteps: Annotated[
        str, typer.Option("--timesteps", "-t", help="Where, in the scheduler's training units.")
    ] = "900,700,500,200",
    rank: Annotated[int, typer.Option("--rank", "-k", help="Directions per sample.")] = 10,
    tap: Annotated[
        str | None,
        typer.Option(help="Where h is read, as path or path:index; see `pullback taps MODEL`."),
    ] = None,
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
    quality: Annotated[
        str, typer.Option(help="draft, standard or tight: bound 5e-2, 2e-3 or 1e-4 on the sine.")
    ] = "standard",
    tol: Annotated[
        float | None, typer.Option(help="The bound on the sine itself, instead of a quality.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the solver's random start.")] = 0,
    figures: Annotated[bool, typer.Option(help="Draw figures beside the bases.")] = True,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
    debug: Debug = False,  # noqa: ARG001 - read by `reported`
) -> None:
    """Compute local latent bases of a model, and write them with a summary and figures."""
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
    source = Source(model, dtype, tuple(call or ()))
    delivery = Delivery(
        output,
        memory=None if memory is None else parse_memory(memory),
        overwrite=overwrite,
        figures=figures,
        quiet=quiet,
        as_json=as_json,
    )
    _deliver(request, delivery, source, device)


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the results.")] = Path(
        "pullback-demo"
    ),
    device: Device = "cpu",
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
    debug: Debug = False,  # noqa: ARG001 - read by `reported`
) -> None:
    """Bases of the digit model: 16 samples, 4 timesteps, rank 12, with figures and a few edits."""
    request = Request(timesteps=(900, 700, 500, 200), rank=12, seeds=tuple(range(16)))
    delivery = Delivery(output, overwrite=overwrite, edits=True, quiet=quiet, as_json=as_json)
    _deliver(request, delivery, Source("digits"), device)


def _deliver(request: Request, delivery: Delivery, source: Source, device: str) -> None:
    make_folder(delivery.folder)
    # Before anything that takes long: that the folder can be written to, and is nobody else's.
    with occupied(delivery.folder):
        # Imported when all that can be refused without torch has been.
        from pullback.cli.execution import execute

        execute(request, delivery, source, device)
