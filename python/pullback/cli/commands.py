"""The command line: `pullback demo`, `pullback basis`, `pullback taps` and `pullback info`.

What computes is imported inside the commands, so that usage errors and `--help` do not wait for
it. Results go to stdout, progress and errors to stderr. Exit codes: 0, 1 for an error, 2 for wrong
usage, 130 for Ctrl-C.
"""

from __future__ import annotations

import functools
import json
import re
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.tree import Tree

if TYPE_CHECKING:
    import torch

    from pullback.cli.reporting import Reporter
    from pullback.models import LatentModel
    from pullback.runs import Found, Plan

app = typer.Typer(
    name="pullback",
    help="Local latent bases of diffusion models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

#: What a user can cause and cure; anything else is a defect, and shows its traceback.
_USER_ERRORS = (
    ValueError,
    TypeError,
    OSError,
    MemoryError,
    FloatingPointError,
    RuntimeError,
    ImportError,
)
_DTYPES = ("float32", "float64", "bfloat16", "float16")
_UNITS = {
    "": 1, "B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40,
    "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
}  # fmt: skip

Model = Annotated[
    str, typer.Argument(help="A name of the zoo (digits), a diffusers folder, or a hub id.")
]
Device = Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1, ...")]
Dtype = Annotated[
    str | None, typer.Option(help=f"Dtype of the network: {', '.join(_DTYPES)}; as saved if unset.")
]
Memory = Annotated[
    str | None,
    typer.Option(help="Memory budget of a pass, such as 4GiB; a share of what is free if unset."),
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Compute again what the folder already holds.")
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on stdout, and nothing else there.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def main() -> None:
    """Entry point of the `pullback` command."""
    try:
        app()
    except KeyboardInterrupt:
        _interrupted()
        sys.exit(130)


def _command(function: Callable[..., None]) -> Callable[..., None]:
    """Errors of a command as one paragraph on stderr, and the exit code that goes with them."""

    @functools.wraps(function)
    def run(*args: Any, debug: bool = False, **kwargs: Any) -> None:
        try:
            function(*args, debug=debug, **kwargs)
        except KeyboardInterrupt:
            _interrupted()
            raise typer.Exit(130) from None
        except BrokenPipeError:
            raise  # the reader of the output has left: typer ends quietly
        except _USER_ERRORS as error:
            if debug:
                raise
            message = " ".join(str(error).split()) or type(error).__name__
            print(textwrap.fill(f"pullback: {message}", 96), file=sys.stderr)
            raise typer.Exit(1) from None

    return run


def _interrupted() -> None:
    print(
        "pullback: interrupted. Finished files are complete; the same command goes on from them.",
        file=sys.stderr,
    )


@app.command()
@_command
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
    prompt: Annotated[
        list[str] | None,
        typer.Option(help="Prompt of all samples; give it again for one prompt a sample."),
    ] = None,
    class_label: Annotated[
        str | None,
        typer.Option(help="Class of all samples, or one for each: 3 or 0,1,2; none if unset."),
    ] = None,
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
    debug: Debug = False,  # noqa: ARG001 - read by _command
) -> None:
    """Compute local latent bases of a model, and write them with a summary and figures."""
    if samples is not None and seeds is not None:
        raise typer.BadParameter("give --samples or --seeds, not both", param_hint="--seeds")
    budget = None if memory is None else parse_memory(memory)
    numbers = tuple(range(samples or 4)) if seeds is None else parse_list(seeds, "--seeds")
    steps = parse_list(timesteps, "--timesteps")
    labels = None if class_label is None else parse_list(class_label, "--class-label")
    if labels is not None and len(labels) == 1:
        labels *= len(numbers)
    prompts = tuple(prompt) if prompt else None
    if prompts is not None and len(prompts) == 1:
        prompts *= len(numbers)
    if prompts is not None and labels is not None:
        raise typer.BadParameter("give --prompt or --class-label, not both", param_hint="--prompt")
    if tap is not None and of in ("noise", "denoised", "score"):
        raise typer.BadParameter(f"the map {of} has no tap", param_hint="--tap")
    _make_folder(output)
    reporter = _reporter(quiet)
    with reporter.waiting("loading the model"):
        from pullback import krylov
        from pullback.runs import Plan

        loaded = _load(model, device, dtype)
        reads = of in ("encoder", "decoder")
        plan = Plan(
            timesteps=steps,
            rank=rank,
            seeds=numbers,
            tap=loaded.default_tap if tap is None and reads else tap,
            tol=krylov.tolerance(quality, tol),
            seed=seed,
            class_labels=labels,
            prompts=prompts,
            map=of,
        )
        plan.check(loaded)
    _run(loaded, plan, output, budget, overwrite, figures, reporter, quiet, as_json)


@app.command()
@_command
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the results.")] = Path(
        "pullback-demo"
    ),
    device: Device = "cpu",
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
    debug: Debug = False,  # noqa: ARG001 - read by _command
) -> None:
    """Bases of the digit model: 16 samples, 4 timesteps, rank 12, with figures."""
    _make_folder(output)
    reporter = _reporter(quiet)
    with reporter.waiting("loading the model"):
        from pullback import krylov
        from pullback.runs import Plan

        loaded = _load("digits", device, None)
        plan = Plan(
            timesteps=(900, 700, 500, 200),
            rank=12,
            seeds=tuple(range(16)),
            tap=loaded.default_tap,
            tol=krylov.tolerance("standard", None),
        )
    _run(loaded, plan, output, None, overwrite, True, reporter, quiet, as_json)


@app.command()
@_command
def taps(
    model: Model,
    device: Device = "cpu",
    dtype: Dtype = None,
    as_json: AsJson = False,
    debug: Debug = False,  # noqa: ARG001 - read by _command
) -> None:
    """Where the features of a model can be read, with their shapes and cost."""
    loaded = _load(model, device, dtype)
    found = loaded.taps()
    if as_json:
        listed = [{"path": t.path, "shape": list(t.shape), "share": t.share} for t in found]
        print(json.dumps({"default": loaded.default_tap, "taps": listed}, indent=2))
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name, justify in (("tap", "left"), ("shape of h", "right"), ("share of a pass", "right")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for tap in found:
        default = "  (default)" if tap.path == loaded.default_tap else ""
        shape = " x ".join(map(str, tap.shape))
        table.add_row(escape(tap.path) + default, shape, f"{tap.share:.1%}")
    Console().print(table)


@app.command()
@_command
def info(
    model: Annotated[
        str | None, typer.Argument(help="A model to describe: zoo name, folder or hub id.")
    ] = None,
    device: Device = "cpu",
    dtype: Dtype = None,
    as_json: AsJson = False,
    debug: Debug = False,  # noqa: ARG001 - read by _command
) -> None:
    """What is installed and usable here; or, with MODEL, its shapes, schedule and taps."""
    from pullback.cli import reporting

    if model is None:
        found = reporting.installation()
        show = reporting.print_installation
    else:
        found = reporting.describe(_load(model, device, dtype))
        show = reporting.print_model
    if as_json:
        print(json.dumps(found, indent=2, allow_nan=False))
    else:
        show(found, Console())


def parse_memory(text: str) -> int:
    """Bytes of a budget such as 4GiB, 512 MiB or 2.5GB.

    Raises:
        typer.BadParameter: it is none.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    sizes = {unit.lower(): size for unit, size in _UNITS.items()}
    if match is None or match[2].lower() not in sizes or float(match[1]) <= 0:
        raise typer.BadParameter(
            f"expected a size such as 4GiB, 512MiB or 2GB, got {text!r}", param_hint="--memory"
        )
    return max(1, int(float(match[1]) * sizes[match[2].lower()]))


def parse_list(text: str, option: str) -> tuple[int, ...]:
    """Whole numbers separated by commas; a-b stands for all from a to b.

    Raises:
        typer.BadParameter: it is no such list.
    """
    numbers: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(-?\d+)\s*(?:-\s*(\d+))?\s*", part)
        if match is None or (match[2] is not None and int(match[2]) < int(match[1])):
            raise typer.BadParameter(
                f"expected whole numbers such as 0,3,7 or 0-15, got {text!r}", param_hint=option
            )
        numbers.extend(range(int(match[1]), int(match[2] or match[1]) + 1))
    return tuple(numbers)


def _make_folder(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(
            f"Expected --output to be a folder, or a path where one can be made; {folder} is a "
            "file. Choose another path."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"The output folder {folder} cannot be made: {error.strerror}. Choose another --output."
        ) from error


def _load(model: str, device: str, dtype: str | None) -> LatentModel:
    if dtype is not None and dtype not in _DTYPES:
        raise ValueError(f"Expected --dtype to be one of {', '.join(_DTYPES)}, got {dtype!r}.")
    import torch

    from pullback.models import load

    kind: torch.dtype | None = None if dtype is None else getattr(torch, dtype)
    return load(model, device=device, dtype=kind)


def _reporter(quiet: bool) -> Reporter:
    from pullback.cli.reporting import Reporter

    return Reporter(quiet)


def _run(
    model: LatentModel,
    plan: Plan,
    folder: Path,
    memory: int | None,
    overwrite: bool,
    with_figures: bool,
    reporter: Reporter,
    quiet: bool,
    as_json: bool,
) -> None:
    """Compute, write and report; what `basis` and `demo` share."""
    from pullback import runs
    from pullback._files import write_json
    from pullback.figures import gallery

    with reporter.bases(plan) as watch:
        found = runs.discover(model, plan, folder, memory=memory, overwrite=overwrite, watch=watch)
    summary = runs.summary(model, plan, found)
    write_json(folder / "summary.json", summary)
    written = _described(found)
    if overwrite:
        gallery.clear(folder)
    if with_figures:
        with reporter.figures(gallery.steps(found)) as step:
            written = {**gallery.draw(model, plan, found, folder, step), **written}
    reporter.shortfalls(found)
    if as_json:
        print(json.dumps(summary, indent=2, allow_nan=False))
    elif not quiet:
        _print_results(summary, folder, written)


def _described(found: list[Found]) -> dict[str, str]:
    """The names of the data files, each with a line about it."""
    from pullback.runs import basis_path, latents_path

    lines = {"summary.json": "settings, versions, accuracy, products, seconds"}
    for item in found:
        count, rank = item.basis.s.shape
        reused = ", reused" if item.reused else ""
        lines[latents_path(Path(), item.t).name] = f"{count} latents x_t at t = {item.t}{reused}"
        lines[basis_path(Path(), item.t).name] = f"u, s, v of {count} samples, rank {rank}{reused}"
    return lines


def _print_results(summary: dict[str, Any], folder: Path, written: dict[str, str]) -> None:
    console = Console()
    table = Table(box=None, header_style="bold", pad_edge=False)
    for head in ("t", "s_1", "s_k", "bound", "converged", "products/direction", "seconds"):
        table.add_column(head, justify="right")
    for row in summary["timesteps"]:
        table.add_row(
            str(row["t"]),
            f"{row['s']['median'][0]:.3g}",
            f"{row['s']['median'][-1]:.3g}",
            f"{row['angle_bound']['max']:.1e}",
            f"{row['converged']}/{row['samples']}",
            f"{row['products']['per_direction']:.1f}",
            "reused" if row["reused"] else f"{row['seconds']:.1f}",
        )
    console.print(table)
    console.print()
    tree = Tree(f"[bold]{escape(str(folder))}[/bold]")
    width = max(map(len, written))
    for name, line in written.items():
        tree.add(f"{name:{width}}  [dim]{line}[/dim]")
    console.print(tree)
