"""`pullback run`: large runs in a folder, by any number of workers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pullback.cli.errors import reported
from pullback.cli.options import AsJson, Call, Debug, Device, Dtype, Quiet, Tap
from pullback.cli.parsing import (
    parse_list,
    parse_memory,
    parse_prompts,
    parse_seeds,
    parse_share,
)
from pullback.cli.run_request import Source, Team

Folder = Annotated[Path, typer.Argument(help="Folder of the run.")]
Workers = Annotated[int, typer.Option(min=1, help="Processes that compute, each with the model.")]
Share = Annotated[
    str | None,
    typer.Option("--worker", help="i/n: of n calls, such as jobs of an array, this is i, from 0."),
]
Ray = Annotated[bool, typer.Option("--ray", help="Workers are actors of Ray.")]


def start(
    folder: Folder,
    model: Annotated[
        str | None,
        typer.Option(help="A name of the zoo, a diffusers folder, or a hub id; of a new run."),
    ] = None,
    samples: Annotated[
        int | None, typer.Option(min=1, help="Number of samples, with seeds 0, 1, ... [4]")
    ] = None,
    seeds: Annotated[
        str | None, typer.Option(help="Seeds of the samples' noise instead: 0,7 or 0-999.")
    ] = None,
    timesteps: Annotated[
        str | None,
        typer.Option(
            "--timesteps", "-t", help="In the scheduler's training units, down. [900,700,500,200]"
        ),
    ] = None,
    rank: Annotated[int | None, typer.Option("--rank", "-k", help="Directions a sample. [10]")] = (
        None
    ),
    tap: Tap = None,
    of: Annotated[
        str | None, typer.Option("--map", help="As for `pullback basis`. [encoder]")
    ] = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option(help="A condition for all seeds; give it again for one more."),
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="Text file of such conditions, one a line.")
    ] = None,
    class_label: Annotated[
        str | None, typer.Option(help="Such conditions by their classes: 3 or 0-9.")
    ] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Samples in a unit of work. [32]")] = (
        None
    ),
    quality: Annotated[
        str | None, typer.Option(help="draft, standard or tight, or --tol. [standard]")
    ] = None,
    tol: Annotated[float | None, typer.Option(help="The bound on the sine itself.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the solver's random start. [0]")] = None,
    keep_u: Annotated[
        bool | None, typer.Option("--keep-u", help="Keep u, the directions of features, too.")
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(help="Budget of a pass, such as 4GiB. [1GiB, or half of a GPU's memory]"),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Of torch, in a worker. [its share of the cores]")
    ] = None,
    call: Call = None,
    device: Device = "cpu",
    dtype: Dtype = None,
    workers: Workers = 1,
    worker: Share = None,
    ray: Ray = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
    debug: Debug = False,  # noqa: ARG001 - read by `reported`
) -> None:
    """Begin a run, or go on with it: then FOLDER is enough, and a changed plan is refused.

    A class label or prompt is a condition of all seeds, each by itself.
    """
    given: dict[str, Any] = {
        "timesteps": None if timesteps is None else parse_list(timesteps, "--timesteps"),
        "rank": rank,
        "seeds": None if samples is None and seeds is None else parse_seeds(samples, seeds),
        "tap": tap,
        "map": of,
        "class_labels": None if class_label is None else parse_list(class_label, "--class-label"),
        "batch": batch,
        "seed": seed,
        "keep_u": keep_u,
        "memory": None if memory is None else parse_memory(memory),
        "threads": threads,
    }
    given = {name: value for name, value in given.items() if value is not None}
    given |= parse_prompts(prompt, prompts)
    source = Source(model, dtype, tuple(call or ()))
    team = Team(device, workers, parse_share(worker), ray)
    # Imported when all that can be refused without torch has been.
    from pullback.cli.run_execution import execute_start

    execute_start(
        folder, given, (quality, tol), source, team, quiet=quiet, as_json=as_json,
    )  # fmt: skip


def status(folder: Folder, as_json: AsJson = False, debug: Debug = False) -> None:  # noqa: ARG001
    """How far a run is, what failed, and how long the rest takes at its present pace."""
    from pullback.cli.run_execution import execute_status

    execute_status(folder, as_json=as_json)


def retry(
    folder: Folder,
    device: Device = "cpu",
    workers: Workers = 1,
    worker: Share = None,
    ray: Ray = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
    debug: Debug = False,  # noqa: ARG001 - read by `reported`
) -> None:
    """Go on with a run, and with the units of it that failed; also after `cancel`."""
    team = Team(device, workers, parse_share(worker), ray)
    from pullback.cli.run_execution import execute_retry

    execute_retry(folder, team, quiet=quiet, as_json=as_json)


def verify(folder: Folder, as_json: AsJson = False, debug: Debug = False) -> None:  # noqa: ARG001
    """Check every byte of a run's files, and set damaged ones aside, to be computed again."""
    from pullback.cli.run_execution import execute_verify

    execute_verify(folder, as_json=as_json)


def cancel(folder: Folder, debug: Debug = False) -> None:  # noqa: ARG001
    """Have no worker begin another unit, wherever it is; `retry` goes on."""
    from pullback.cli.run_execution import execute_cancel

    execute_cancel(folder)


run = typer.Typer(help="Large runs: begin, go on, look, check, cancel.", no_args_is_help=True)
for command in (start, status, retry, verify, cancel):
    run.command(command.__name__)(reported(command))
