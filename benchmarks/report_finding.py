"""Tables of the ways to find directions, and of principal components."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from benchmarks.report import print_targets, table_of


def print_finding(console: Console, results: dict[str, Any]) -> None:
    """The table of problems and methods: what the published one takes over each, and angles."""
    settings = results["settings"]
    table = table_of(
        f"{settings['model']}: ways to find directions, {results['problem']['dtype']}, latents at "
        f"t = {settings['t']}; how many times as much the published algorithm takes, in "
        f"{settings['iterations']} iterations at most",
        ("problem", "method"),
        ("time (least, most)", "products", "memory", "sine to published", "to the truth (worst)"),
        wrap=True,
    )
    for row in results["rows"]:
        shapes = "\n".join(f"{name} {_shape(size)}" for name, size in row["shapes"].items())
        for name, method in row["methods"].items():
            first = name == "published"
            over = method["published_over_this"]
            time, products = over["seconds"], over["products"]
            table.add_row(
                f"{row['name']}\n{shapes}" if first else "",
                method["label"],
                "1" if first else f"{time['median']:.2f} ({time['min']:.2f}, {time['max']:.2f})",
                "" if products is None else f"{products:.2f}",
                f"{over['peak_bytes']:.2f}",
                _sines(method["sine_to_published"]),
                _sines(method["sine"]),
            )
        table.add_section()
    console.print(table)


def print_pca(console: Console, results: dict[str, Any]) -> None:
    """The table of streams, and the targets."""
    settings, problem = results["settings"], results["problem"]
    gaps = problem["gaps"]
    table = table_of(
        f"{settings['model']}: {settings['count']} trajectories of {settings['steps']} steps, "
        f"{problem['entries']} numbers each, rank {settings['rank']} "
        f"({problem['share_of_rank']:.0%} of the variance; neighbours are {min(gaps[:-1]):.1%} "
        f"apart at least, the next one is {gaps[-1]:.1%} below); errors against the dense float64 "
        "covariance",
        ("extra",),
        (
            "lost", "mean", "variance", "deviations, worst", "span, sine", "single vectors, best",
            "worst", "MB at most", "of it over the start",
        ),
        wrap=True,
    )  # fmt: skip
    for stream in results["streams"]:
        memory = stream["memory"]
        table.add_row(
            "default" if stream["extra"] is None else str(stream["extra"]),
            f"{stream['lost']:.1e}",
            f"{stream['mean']:.1e}",
            f"{stream['variance']:.1e}",
            f"{max(stream['deviations']):.1e}",
            f"{stream['sine_of_span']:.1e}",
            f"{min(stream['sines']):.1e}",
            f"{max(stream['sines']):.1e}",
            f"{memory['peak'] / 1e6:.0f}",
            f"{memory['growth'] / 1e6:.0f}",
        )
    console.print(table)
    kept = all(stream["bound_holds"] for stream in results["streams"])
    console.print(
        f"The bound by what was lost {'holds' if kept else 'does [red]not[/] hold'} for the "
        "variance of every component."
    )
    print_targets(console, results["targets"])


def _shape(size: int | list[int]) -> str:
    return str(size) if isinstance(size, int) else " x ".join(map(str, size))


def _sines(found: dict[str, float] | None) -> str:
    """Median and worst; empty where they are not known."""
    return "" if found is None else f"{found['median']:.1e} ({found['max']:.1e})"
