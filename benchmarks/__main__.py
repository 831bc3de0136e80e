"""Command line of the benchmarks: `python -m benchmarks WHAT`, or `all`."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from benchmarks import (
    angles,
    attention,
    basis,
    directions,
    edits,
    environment,
    finding,
    gram,
    kills,
    orthonormalize,
    pairs,
    pca,
    products,
    profiling,
    report,
    report_finding,
    runs,
    transport,
)
from pullback._files import write_json

_RESULTS = Path(__file__).parent / "results"


#: What can be measured, each with what prints its table.
_BENCHES: dict[str, tuple[Any, Callable[[Console, dict[str, Any]], None]]] = {
    "basis": (basis, report.print_basis),
    "edits": (edits, report.print_edits),
    "directions": (directions, directions.print_directions),
    "transport": (transport, report.print_transport),
    "finding": (finding, report_finding.print_finding),
    "pca": (pca, report_finding.print_pca),
    "products": (products, products.print_products),
    "attention": (attention, attention.print_attention),
    "profile": (profiling, profiling.print_profile),
    "pairs": (pairs, report.print_pairs),
    "runs": (runs, runs.print_runs),
    "kills": (kills, kills.print_kills),
    "angles": (angles, report.print_angles),
    "gram": (gram, report.print_gram),
    "orthonormalize": (orthonormalize, report.print_orthonormalize),
}


def _settings(name: str, device: torch.device, *, quick: bool) -> Any:
    """What is measured by one of `_BENCHES`."""
    bench = _BENCHES[name][0]
    if quick:
        return bench.Settings.quick()
    return bench.Settings.on(device) if bench is orthonormalize else bench.Settings()


class What(str, Enum):
    """What can be measured: a name of `_BENCHES`, or all of them."""

    angles = "angles"
    attention = "attention"
    basis = "basis"
    directions = "directions"
    edits = "edits"
    finding = "finding"
    gram = "gram"
    kills = "kills"
    orthonormalize = "orthonormalize"
    pairs = "pairs"
    pca = "pca"
    products = "products"
    profile = "profile"
    runs = "runs"
    transport = "transport"
    all = "all"


class Device(str, Enum):
    """Where it can be measured."""

    cpu = "cpu"
    cuda = "cuda"


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    what: Annotated[
        What,
        typer.Argument(
            help="basis, edits, transport, finding: against the published algorithms; directions: "
            "every way to find them, before a judge; pca: of many trajectories; pairs: distances "
            "of many subspaces; products: their cost; profile: against looks at a stack; runs, "
            "kills: large ones, disturbed; angles, attention, gram, orthonormalize: the kernels."
        ),
    ] = What.basis,
    samples: Annotated[int | None, typer.Option(min=1, help="Latents of basis (8).")] = None,
    device: Annotated[Device, typer.Option(help="Where to run.")] = Device.cpu,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of torch (default: its own choice).")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Only show that it runs: few samples and iterations.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "--json",
            help="JSON file to write (benchmarks/results/WHAT-DEVICE.json; none with --quick).",
        ),
    ] = None,
) -> None:
    """Measure pullback, print tables, and write the figures with their environment.

    Nothing fails by being slow: the tables say which targets were met.
    """
    if device is Device.cuda and not torch.cuda.is_available():
        raise typer.BadParameter(
            f"torch {torch.__version__} finds no usable NVIDIA GPU here.", param_hint="--device"
        )
    if threads is not None:
        torch.set_num_threads(threads)
    # As in the program: no method pays for looking through what was imported.
    gc.collect()
    gc.freeze()
    # Rounding to TF32 would keep every method from the accuracy that is asked for.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    place = torch.device(device.value)
    chosen = {name: both for name, both in _BENCHES.items() if what.value in (name, "all")}
    console, err = report.console(), Console(stderr=True)
    results: dict[str, Any] = {"environment": environment.describe(place), "quick": quick}
    report.print_environment(console, results["environment"])
    with err.status("starting") as status:
        for name, (bench, _) in chosen.items():
            settings = _settings(name, place, quick=quick)
            if bench is basis and samples is not None:
                settings = replace(settings, samples=samples)
            results[name] = bench.run(settings, place, status.update)
    results["environment"]["load_average_at_end"] = environment.load_average()
    for name, (_, show) in chosen.items():
        show(console, results[name])
    if quick:
        console.print("This was a quick run: it shows that all runs, and its figures mean nothing.")
    if output is None and not quick:
        output = _RESULTS / f"{what.value}-{environment.slug(place)}.json"
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_json(output, results)
        console.print(f"Wrote {output}")


if __name__ == "__main__":
    app(prog_name="python -m benchmarks")
