"""Results as tables for people and as JSON for programs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


def console() -> Console:
    """Standard output; a file or pipe, which has no width, gets one that the tables fit."""
    terminal = Console()
    return terminal if terminal.is_terminal else Console(width=max(terminal.width, 120))


def write_json(path: Path, results: dict[str, Any]) -> None:
    """Write results; the file appears complete or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        temporary.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", "utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def print_environment(console: Console, environment: dict[str, Any]) -> None:
    """One paragraph on what the figures belong to."""
    native = environment["pullback_ext"]
    load = environment["load_average"][0]
    console.print(
        f"{environment['device']}, {environment['threads']} threads of {environment['cores']} "
        f"cores (load {load:g} at the start), torch {environment['torch']}, diffusers "
        f"{environment['diffusers']}, Python {environment['python']}, pullback "
        f"{environment['pullback']} ({native.get('isa_in_use') or 'no native kernels in use'})"
    )
    if load > environment["cores"] / 2:
        console.print(
            "[yellow]Other work is running on this machine: times will scatter, and ratios "
            "with them."
        )


def print_basis(console: Console, results: dict[str, Any]) -> None:
    """The table of methods, and the targets."""
    settings, problem = results["settings"], results["problem"]
    shape = " x ".join(map(str, problem["x_shape"]))
    table = Table(
        title=f"{settings['model']}: latents {shape} (n = {problem['n']}), tap {problem['tap']} "
        f"(m = {problem['m']}), t = {settings['t']}, rank {settings['rank']}, "
        f"{settings['samples']} samples, {problem['dtype']}; medians over samples"
    )
    table.add_column("method")
    for name in (
        "s / sample", "ratio to ours", "iterations", "products / direction (worst)",
        "true sine (worst)", "peak MiB",
    ):  # fmt: skip
        table.add_column(name, justify="right")
    for method in results["methods"].values():
        iterations, products, sine = (
            method[key] for key in ("iterations", "products_per_direction", "sine")
        )
        table.add_row(
            method["label"],
            f"{method['seconds_per_sample']['median']:.4f}",
            f"{method['ratio_to_ours']:.2f}",
            f"{iterations['median']:g}" if iterations else "",
            f"{products['median']:.1f} ({products['max']:.1f})",
            f"{sine['median']:.1e} ({sine['max']:.1e})",
            f"{method['peak_bytes'] / 2**20:.1f}",
        )
    console.print(table)
    for method in results["methods"].values():
        given_up = method["stopped"].get("max_iter", 0)
        if given_up:
            most = int(method["iterations"]["max"])
            console.print(f"{method['label']}: {given_up} samples stopped at {most} iterations.")
    algebra = results["algebra"]
    console.print(
        f"Block algebra takes {algebra['share']:.1%} of the solver's time "
        f"({algebra['seconds'] * 1e3:.1f} of {algebra['solver_seconds'] * 1e3:.1f} ms for all "
        "samples); the rest is products with J and its transpose."
    )
    _print_targets(console, results["targets"])


def _print_targets(console: Console, targets: list[dict[str, Any]]) -> None:
    for target in targets:
        verdict = "[green]met[/]" if target["met"] else "[red]not met[/]"
        note = f" ({target['note']})" if target["note"] else ""
        console.print(
            f"{target['value']:.1f} {target['name']}: asked {target['asked']}, {verdict}{note}"
        )


def print_orthonormalize(console: Console, results: dict[str, Any]) -> None:
    """The tables of blocks and of steps."""
    bandwidth = results["copy_bytes_per_s"] / 1e9
    kernel = "native kernel" if results["native"] else "plain-torch twin, the library is missing"
    table = Table(
        title=f"orthonormalize of float32 rows ({kernel}); fastest of the rounds, in milliseconds; "
        f"copy {bandwidth:.1f} GB/s"
    )
    for name in ("B x k x N", "condition"):
        table.add_column(name, no_wrap=True)
    for name in ("passes", "ours", "qr", "svd", "bandwidth", "loss", "of qr"):
        table.add_column(name, justify="right")
    for row in results["blocks"]:
        times, ratios = row["seconds"], row["ratio_to_ours"]
        others = (
            f"{times[name]['min'] * 1e3:.3f} ({ratios[name]['min']:.1f}x)" if name in times else ""
            for name in ("qr", "svd")
        )
        table.add_row(
            " x ".join(map(str, row["shape"])),
            f"{row['condition']:.0e}" if row["condition"] else "random",
            str(max(row["passes"])),
            f"{times['ours']['min'] * 1e3:.3f}",
            *others,
            f"{row['bandwidth_fraction']:.0%}",
            f"{row['loss']['ours']:.1e}",
            f"{row['loss']['qr']:.1e}",
        )
    console.print(table)
    table = Table(title="block_step of float32 rows; fastest of the rounds, in milliseconds")
    table.add_column("B x k x d x N", no_wrap=True)
    for name in ("ours", "two projections and QRs"):
        table.add_column(name, justify="right")
    for row in results["steps"]:
        times = row["seconds"]
        table.add_row(
            " x ".join(map(str, row["size"])),
            f"{times['ours']['min'] * 1e3:.3f}",
            f"{times['torch']['min'] * 1e3:.3f} ({row['ratio_to_ours']['min']:.1f}x)",
        )
    console.print(table)
    _print_targets(console, results["targets"])


def print_gram(console: Console, results: dict[str, Any]) -> None:
    """The table of shapes."""
    bandwidth = results["copy_bytes_per_s"] / 1e9
    kernel = "native kernel" if results["native"] else "plain-torch twin, the library is missing"
    table = Table(
        title=f"gram of float32 rows ({kernel}); fastest of the rounds, in microseconds; "
        f"copy {bandwidth:.1f} GB/s"
    )
    for name in ("product", "B x k x N"):
        table.add_column(name, no_wrap=True)
    for name in ("gram", "bmm float32", "bmm float64", "bandwidth", "error", "of float32"):
        table.add_column(name, justify="right")
    for row in results["rows"]:
        times, ratios = row["seconds"], row["ratio_to_gram"]
        bmm = (
            f"{times[name]['min'] * 1e6:.1f} ({ratios[name]['min']:.2f}x)"
            for name in ("bmm_float32", "bmm_float64")
        )
        table.add_row(
            row["product"],
            " x ".join(map(str, row["shape"])),
            f"{times['gram']['min'] * 1e6:.1f}",
            *bmm,
            f"{row['bandwidth_fraction']:.0%}",
            f"{row['error']['gram']:.1e}",
            f"{row['error']['bmm_float32']:.1e}",
        )
    console.print(table)
