"""Results as tables for people and as JSON for programs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


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
    for target in results["targets"]:
        verdict = "[green]met[/]" if target["met"] else "[red]not met[/]"
        note = f" ({target['note']})" if target["note"] else ""
        console.print(
            f"{target['value']:.1f} {target['name']}: asked {target['asked']}, {verdict}{note}"
        )


def print_gram(console: Console, results: dict[str, Any]) -> None:
    """The table of shapes."""
    bandwidth = results["copy_bytes_per_s"] / 1e9
    kernel = "native kernel" if results["native"] else "plain-torch twin, the library is missing"
    table = Table(
        title=f"gram of float32 rows ({kernel}), minimum / median; copy {bandwidth:.1f} GB/s"
    )
    for name in ("product", "B x k x N"):
        table.add_column(name)
    for name in (
        "gram us", "bmm float32 us", "bmm float64 us", "float32 / gram", "float64 / gram",
        "of the bandwidth", "error of gram", "of float32",
    ):  # fmt: skip
        table.add_column(name, justify="right")
    for row in results["rows"]:
        times, ratios = (
            [
                f"{values['min'] * unit:.{digits}f} / {values['median'] * unit:.{digits}f}"
                for values in row[key].values()
            ]
            for key, unit, digits in (("seconds", 1e6, 1), ("ratio_to_gram", 1, 2))
        )
        table.add_row(
            row["product"],
            " x ".join(map(str, row["shape"])),
            *times,
            *ratios[1:],
            f"{row['bandwidth_fraction']:.2f}",
            f"{row['error']['gram']:.1e}",
            f"{row['error']['bmm_float32']:.1e}",
        )
    console.print(table)
