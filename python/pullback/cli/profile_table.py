"""A profile on stdout: tables of kinds and stages, the machine, and advice."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pullback._memory import told as size_told
from pullback.cli.tables import columns_of, print_with_files
from pullback.profiling import Profile, Scaling, ScalingPoint


def print_profile(
    found: Profile, scaled: Scaling | None, folder: Path, written: dict[str, str]
) -> None:
    """All that a profile says, and the files as a tree.

    Args:
        found: the profile.
        scaled: cost over samples and rank, if it was measured.
        folder: where the files are.
        written: the names of the files, each with a line about it.
    """
    console = Console()
    told, machine = found.workload, found.machine
    console.print(
        f"[bold]{escape(Path(told['model']).name)}[/bold], {escape(told['map'])}: "
        f"{told['samples']} samples, rank {told['rank']}, {told['products']} products in "
        f"{found.seconds:.3g} s; under the profiler {100 * found.overhead:+.0f} %"
    )
    console.print(
        f"{escape(machine.name)}: {machine.copy_bandwidth / 1e9:.0f} GB/s by copies, "
        f"{machine.gemm_rate / 1e9:.0f} GFLOP/s by matrix products in {machine.dtype}; peak "
        f"{size_told(found.peak_bytes)}"
    )
    console.print()
    console.print(_kinds(found))
    console.print()
    for name, cost in found.products.items():
        symbol = name.replace("JT", "Jᵀ")
        console.print(
            f"{symbol}: {cost.count} products of {1e3 * cost.seconds:.3g} ms, "
            f"{cost.forwards:.2f} forward passes each"
        )
    console.print(f"[dim]{escape(found.plan)}[/dim]")
    for one in found.advice:
        console.print(f"\n[bold]{one.change}[/bold], {100 * one.gain:.0f} % less time: {one.text}")
    if scaled is not None:
        console.print()
        console.print(_scaling(scaled))
        for reason in scaled.left_out:
            console.print(f"[dim]left out: {reason}[/dim]")
    console.print()
    print_with_files(None, folder, written)


def _kinds(found: Profile) -> Table:
    table = columns_of(
        ("kind of work", "left"), ("share", "right"), ("seconds", "right"), ("GFLOP", "right"),
        ("GB", "right"), ("of GEMM", "right"), ("of copy", "right"),
    )  # fmt: skip
    for kind, work in found.kinds.items():
        table.add_row(
            kind,
            f"{100 * work.share:.1f} %",
            f"{work.seconds:.3g}",
            f"{work.flops / 1e9:.3g}" if work.flops else "",
            f"{work.bytes / 1e9:.3g}" if work.bytes else "",
            "" if work.gemm_fraction is None else f"{100 * work.gemm_fraction:.0f} %",
            "" if work.copy_fraction is None else f"{100 * work.copy_fraction:.0f} %",
        )
    total = sum(work.share for work in found.kinds.values())
    table.add_row("all", f"{100 * total:.1f} %", f"{found.seconds:.3g}", style="bold")
    return table


def _scaling(scaled: Scaling) -> Table:
    table = columns_of(
        ("samples", "right"), ("rank", "right"), ("seconds", "right"), ("a sample", "right"),
        ("a direction", "right"), ("products", "right"),
    )  # fmt: skip

    def add(point: ScalingPoint) -> None:
        table.add_row(
            str(point.samples), str(point.rank), f"{point.seconds:.3g}",
            f"{point.per_sample:.3g}", f"{point.per_direction:.3g}", str(point.products),
        )  # fmt: skip

    for group in (scaled.over_samples, scaled.over_rank):
        for point in group:
            add(point)
        table.add_section()
    return table
