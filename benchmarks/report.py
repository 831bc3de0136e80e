"""Results as tables for people and as JSON for programs."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table


def console() -> Console:
    """Standard output; a file or pipe, which has no width, gets one that the tables fit."""
    terminal = Console()
    return terminal if terminal.is_terminal else Console(width=max(terminal.width, 120))


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
    table = table_of(
        f"{settings['model']}: latents {shape} (n = {problem['n']}), tap {problem['tap']} "
        f"(m = {problem['m']}), t = {settings['t']}, rank {settings['rank']}, "
        f"{settings['samples']} samples, {problem['dtype']}; medians over samples",
        ("method",),
        (
            "s / sample", "ratio to ours", "iterations", "products / direction (worst)",
            "true sine (worst)", "peak MiB",
        ),
        wrap=True,
    )  # fmt: skip
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
    ceiling = results["ceiling"]
    console.print(
        f"The same products at one forward pass of all samples a column would take "
        f"{ceiling['seconds_per_sample']:.4f} s a sample, and the published loop "
        f"{ceiling['ratio_of_the_published_loop']:.1f} times that."
    )
    print_targets(console, results["targets"])


def print_edits(console: Console, results: dict[str, Any]) -> None:
    """The table of methods."""
    settings, problem = results["settings"], results["problem"]
    shape = " x ".join(map(str, problem["x_shape"]))
    table = table_of(
        f"{settings['model']}: {settings['samples']} samples of {shape} x {settings['directions']} "
        f"directions x {settings['strengths']} strengths = {problem['edits']} edits, t = "
        f"{settings['t']}, {settings['steps']} steps, {problem['dtype']}; medians of "
        f"{settings['samples']} rounds",
        ("method",),
        ("rows a pass", "ms / edit", "ratio to ours (least, most)", "peak MiB", "difference"),
        wrap=True,
    )
    for method in results["methods"].values():
        ratio = method["ratio_to_ours"]
        table.add_row(
            method["label"],
            str(method["rows"]),
            f"{method['seconds_per_edit']['median'] * 1e3:.1f}",
            f"{ratio['median']:.2f} ({ratio['min']:.2f}, {ratio['max']:.2f})",
            f"{method['peak_bytes'] / 2**20:.1f}",
            f"{method['largest_difference']:.1e}",
        )
    console.print(table)


def print_pairs(console: Console, results: dict[str, Any]) -> None:
    """The table of sizes."""
    settings = results["settings"]
    table = table_of(
        f"all pairs of {settings['subspaces']} subspaces of {settings['rank']} float32 rows; "
        f"medians of {settings['rounds']} rounds, in seconds",
        ("entries of a row",),
        (
            "ours",
            "products",
            "of the GEMM rate",
            "by matmul",
            "angles, µs a pair",
            "loop / ours (least, most)",
        ),
        wrap=True,
    )
    for row in results["sizes"]:
        ratio, seconds = row["ratio_of_the_loop"], row["seconds"]
        table.add_row(
            str(row["n"]),
            f"{seconds['ours']:.2f}",
            f"{seconds['products']:.2f}",
            f"{row['product_rate_of_gemm']:.0%}",
            f"{seconds['products_by_matmul']:.2f}",
            f"{row['microseconds_of_angles']:.2f}",
            f"{ratio['median']:.1f} ({ratio['min']:.1f}, {ratio['max']:.1f})",
        )
    console.print(table)
    print_targets(console, results["targets"])


def print_transport(console: Console, results: dict[str, Any]) -> None:
    """The table of both ways."""
    settings, ratio = results["settings"], results["ratio"]
    table = table_of(
        f"{settings['model']}: one direction to {settings['targets']} targets, t = "
        f"{settings['t']}, rank {settings['rank']}; the loop on {settings['one_by_one']} of them; "
        f"medians of {settings['rounds']} rounds",
        ("method",),
        ("ms / target", "ratio to ours (least, most)", "products / target"),
        wrap=True,
    )
    ratios = {
        "published": f"{ratio['median']:.1f} ({ratio['min']:.1f}, {ratio['max']:.1f})",
        "ours": "1",
    }
    for name, told in ratios.items():
        method = results[name]
        table.add_row(
            method["label"],
            f"{statistics.median(method['seconds_per_target']) * 1e3:.1f}",
            told,
            f"{method['products_per_target']:.1f}",
        )
    console.print(table)
    cosine = results["cosine_of_directions"]
    console.print(
        f"|cos| between the directions of both: median {cosine['median']:.4f}, least "
        f"{cosine['min']:.4f}"
    )


def print_targets(console: Console, targets: list[dict[str, Any]]) -> None:
    """What must be shown, with what was seen."""
    for target in targets:
        verdict = "[green]met[/]" if target["met"] else "[red]not met[/]"
        note = f" ({target['note']})" if target["note"] else ""
        value = target["value"]
        shown = f"{value:.1f}" if value >= 0.1 else f"{value:.1e}"
        console.print(f"{shown} {target['name']}: asked {target['asked']}, {verdict}{note}")


def print_orthonormalize(console: Console, results: dict[str, Any]) -> None:
    """The tables of blocks and of steps."""
    table = table_of(
        _kernel_title("orthonormalize", "milliseconds", results),
        ("B x k x N", "condition"),
        ("passes", "ours", "qr", "svd", "H100 (model)", "bandwidth", "loss", "of qr"),
    )
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
            f"{row['model_of_h100_seconds'] * 1e3:.3f}",
            f"{row['bandwidth_fraction']:.0%}",
            f"{row['loss']['ours']:.1e}",
            f"{row['loss']['qr']:.1e}",
        )
    console.print(table)
    table = table_of(
        "block_step of float32 rows; fastest of the rounds, in milliseconds",
        ("B x k x d x N",),
        ("ours", "two projections and QRs", "H100 (model)"),
    )
    for row in results["steps"]:
        times = row["seconds"]
        table.add_row(
            " x ".join(map(str, row["size"])),
            f"{times['ours']['min'] * 1e3:.3f}",
            f"{times['torch']['min'] * 1e3:.3f} ({row['ratio_to_ours']['min']:.1f}x)",
            f"{row['model_of_h100_seconds'] * 1e3:.3f}",
        )
    console.print(table)
    table = table_of(
        "two passes on an H100 in milliseconds: a model (benchmarks/kernel_model.py), not measured",
        ("B x k x N",),
        ("kernels before", "orthonormalize", "block_step, 2k rows", "copies alone", "launches"),
    )
    for row in results["model"]:
        times = (row[name] for name in ("before", "orthonormalize", "block_step", "copy"))
        table.add_row(
            " x ".join(map(str, row["shape"])),
            *(f"{time * 1e3:.3f}" for time in times),
            str(row["launches"]),
        )
    console.print(table)
    print_targets(console, results["targets"])


def print_angles(console: Console, results: dict[str, Any]) -> None:
    """The tables of matrices and of products."""
    made_by = "native kernel" if results["native"] else "plain-torch twin, the library is missing"
    table = table_of(
        f"squared_singular_values of float32 k x k matrices ({made_by}); fastest of the rounds, in "
        "microseconds a matrix",
        ("k",),
        ("matrices", "ours", "batched svdvals", "svdvals in a loop", "error in eps"),
    )
    for row in results["values"]:
        times, ratios = row["seconds_per_matrix"], row["ratio_to_ours"]
        table.add_row(
            str(row["k"]),
            str(row["matrices"]),
            f"{times['ours']['min'] * 1e6:.3f}",
            *(
                f"{times[name]['min'] * 1e6:.1f} ({ratios[name]['min']:.0f}x)"
                for name in ("batched", "loop")
            ),
            f"{row['error_in_eps']:.0f}",
        )
    console.print(table)
    table = table_of(
        "Products of all pairs of float32 rows, X X^T, of which gram takes one half; fastest of "
        "the rounds, in milliseconds",
        ("rows x N",),
        ("gram", "matmul float32", "matmul float64", "error", "of float32"),
    )
    for row in results["products"]:
        times, ratios = row["seconds"], row["ratio_to_gram"]
        table.add_row(
            " x ".join(map(str, row["shape"])),
            f"{times['gram']['min'] * 1e3:.1f}",
            *(
                f"{times[name]['min'] * 1e3:.1f} ({ratios[name]['min']:.2f}x)"
                for name in ("matmul_float32", "matmul_float64")
            ),
            f"{row['error']['gram']:.1e}",
            f"{row['error']['matmul_float32']:.1e}",
        )
    console.print(table)


def print_gram(console: Console, results: dict[str, Any]) -> None:
    """The table of shapes."""
    table = table_of(
        _kernel_title("gram", "microseconds", results),
        ("product", "B x k x N"),
        ("gram", "bmm float32", "bmm float64", "bandwidth", "error", "of float32"),
    )
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


def table_of(
    title: str, names: Sequence[str], figures: Sequence[str], *, wrap: bool = False
) -> Table:
    """An empty table: columns of names, which may be broken with `wrap`, then of figures."""
    table = Table(title=title)
    for name in names:
        table.add_column(name, no_wrap=not wrap)
    for name in figures:
        table.add_column(name, justify="right")
    return table


def _kernel_title(kernel: str, unit: str, results: dict[str, Any]) -> str:
    made_by = "native kernel" if results["native"] else "plain-torch twin, the library is missing"
    return (
        f"{kernel} of float32 rows ({made_by}); fastest of the rounds, in {unit}; copy "
        f"{results['copy_bytes_per_s'] / 1e9:.1f} GB/s"
    )
