"""Results on stdout: tables for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.tree import Tree

from pullback._memory import told

if TYPE_CHECKING:
    from pullback.runs import SampleEdits


_MOST_COLUMNS = 6  # samples or directions side by side
_MOST_WORDS = 300  # letters of an error

#: What is known of every direction, whatever its method.
_TOLD = ("file", "name", "space", "tap", "pool", "t", "unit")


def print_json(value: Any) -> None:
    """One JSON object."""
    print(json.dumps(value, indent=2, allow_nan=False))


def print_results(summary: dict[str, Any], folder: Path, written: dict[str, str]) -> None:
    """A summary as a table, and the files with a line about each as a tree."""
    heads = ("t", "s_1", "s_k", "bound", "converged", "products/direction", "seconds")
    table = columns_of(*[(head, "right") for head in heads])
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
    print_with_files(table, folder, written)


def print_edits(edits: Sequence[SampleEdits], folder: Path, written: dict[str, str]) -> None:
    """A line per sample, with how well an image was inverted, and the files as a tree."""
    table = columns_of(
        ("sample", "left"), ("directions", "left"), ("strengths", "right"), ("PSNR", "right"),
        ("", "left"),
    )  # fmt: skip
    for one in edits:
        quality = "" if one.inversion is None else _decibels(one.inversion["psnr"])
        names = ", ".join(map(escape, one.names))
        strengths = str(one.latents.shape[1])
        table.add_row(escape(one.name), names, strengths, quality, "reused" * one.reused)
    print_with_files(table, folder, written)


def print_transport(summary: dict[str, Any], folder: Path, written: dict[str, str]) -> None:
    """What each target retained at each timestep, and how far the tangent spaces are."""
    targets = summary["targets"]
    least = [(f"seed {seed}", "right") for seed in targets[:_MOST_COLUMNS]]
    table = columns_of(("t", "right"), *least, ("distance", "right"), ("", "left"))  # type: ignore[arg-type]
    for row in summary["transports"]:
        kept = [f"{part:.2f}" for part in row["retained"][:_MOST_COLUMNS]]
        pairs = [one for i, line in enumerate(row["distances"]) for one in line[i + 1 :]]
        mean = sum(pairs) / len(pairs)
        table.add_row(str(row["t"]), *kept, f"{mean:.2f}", "reused" * row["reused"])
    chance = summary["chance"]
    by_chance = f"{chance['retained']:.2f}"
    table.add_row("chance", *[by_chance] * len(least), f"{chance['distance']:.2f}", "", style="dim")
    more = "" if len(targets) == len(least) else f" (the first {len(least)})"
    Console().print(f"retained by target{more}, and mean distance of the tangent spaces")
    print_with_files(table, folder, written)


def print_paths(summary: dict[str, Any], folder: Path, written: dict[str, str]) -> None:
    """A line per pair and kind of path."""
    table = columns_of(
        ("seeds", "left"), ("kind", "left"), ("length", "right"), ("in latents", "right"),
        ("gap", "right"), ("", "left"),
    )  # fmt: skip
    for place, (start, end) in enumerate(summary["pairs"]):
        for row in summary["paths"]:
            numbers = [f"{row[name][place]:.2f}" for name in ("length", "latent_length", "gap")]
            table.add_row(f"{start}, {end}", row["kind"], *numbers, "reused" * row["reused"])
    print_with_files(table, folder, written)


def print_global(summary: dict[str, Any], folder: Path, written: dict[str, str]) -> None:
    """A line per global direction."""
    table = columns_of(
        ("direction", "right"), ("agreement", "right"), ("retained: median", "right"),
        ("least", "right"), ("", "left"),
    )  # fmt: skip
    for number, row in enumerate(summary["directions"]):
        kept = row["retained"]
        numbers = [f"{one:.2f}" for one in (row["agreement"], median(kept), min(kept))]
        table.add_row(str(number + 1), *numbers, "reused" * summary["reused"])
    print_with_files(table, folder, written)


def print_run(state: dict[str, Any]) -> None:
    """How far a large run is, and what failed in it."""
    table = _pairs()
    table.add_row("run", escape(state["folder"]))
    units = [f"{state[name]} {name}" for name in ("done", "failed", "left") if state[name]]
    table.add_row("units", f"{state['units']}: {', '.join(units)}")
    table.add_row("bases", f"{state['bases']} of {state['bases_in_all']}")
    if state["seconds_per_unit"] is not None:
        table.add_row("a unit takes", f"{state['seconds_per_unit']:.3g} s")
    if state["left"] and state["seconds_left"] is not None:
        table.add_row("left at this pace", span(state["seconds_left"]))
    if state["cancelled"]:
        table.add_row("cancelled", "nobody begins another unit")
    for one in state["failures"]:
        message = " ".join(one["message"].split())[:_MOST_WORDS]
        table.add_row(f"unit {one['unit']} failed", escape(f"{one['error']}: {message}"))
    Console().print(table)


def print_analyses(summary: dict[str, Any], folder: Path, written: dict[str, str]) -> None:
    """A line per claim of the papers with what was found of it, and the files as a tree."""
    table = columns_of(("analysis", "left"), ("claim", "left"), ("", "left"))
    for name, one in summary["analyses"].items():
        for finding in one["findings"]:
            table.add_row(name, escape(finding["claim"]), finding["verdict"])
    for name, reason in summary["left_out"].items():
        table.add_row(name, escape(reason), "left out")
    print_with_files(table, folder, written)


def print_methods(rows: Sequence[dict[str, Any]]) -> None:
    """The table of methods: some lines of each, so that it fits a narrow terminal."""
    table = _pairs()
    for row in rows:
        needs = ", ".join(row["needs"]) or "nothing"
        where = f"in {', '.join(row['space'])}; of {row['moves']}; needs {needs}"
        how = row["command"] or f"from Python: {row['function']}"
        table.add_row(row["name"], f"{row['finds']}; {row['cost']}")
        for line in (where, row["source"], f"[dim]{how}[/dim]"):
            table.add_row("", line)
    Console().print(table)


def print_found(summary: dict[str, Any], folder: Path, written: dict[str, str]) -> None:
    """A line per direction, with the numbers of its method."""
    rows = summary["directions"]
    names = [name for name in rows[0] if name not in _TOLD]
    table = columns_of(
        ("direction", "left"), ("space", "left"), ("t", "right"), ("unit", "right"),
        *[(name, "right") for name in names],  # type: ignore[misc]
    )  # fmt: skip
    for row in rows:
        space = row["space"] if row["tap"] is None else f"{row['space']} at {row['tap']}"
        t, unit = _from_to(row["t"], "d"), _from_to(row["unit"], ".3g")
        numbers = ["" if row.get(name) is None else f"{row[name]:.3g}" for name in names]
        table.add_row(escape(row["name"]), escape(space), t, unit, *numbers)
    print_with_files(table, folder, written)


def print_comparison(
    names: Sequence[str],
    cosines: Sequence[Sequence[float]],
    retained: Sequence[Sequence[float]] | None,
) -> None:
    """Cosines with the first directions; and what all retain in the bases of the first samples."""
    shown = min(len(names), _MOST_COLUMNS)
    heads = [(str(place + 1), "right") for place in range(shown)]
    samples = 0 if retained is None else min(len(retained[0]), _MOST_COLUMNS)
    heads += [(f"sample {sample}", "right") for sample in range(samples)]
    table = columns_of(("", "right"), ("direction", "left"), *heads)  # type: ignore[arg-type]
    for place, (name, row) in enumerate(zip(names, cosines, strict=True)):
        kept = [] if retained is None else retained[place][:samples]
        numbers = [f"{value:.2f}" for value in (*row[:shown], *kept)]
        table.add_row(str(place + 1), escape(name), *numbers)
    also = "" if retained is None else ", and norms of what lies in the basis of each sample"
    more = (
        "" if shown == len(names) else f" with the first {shown} of {len(names)} (--json has all)"
    )
    Console().print(f"cosines{more}{also}")
    Console().print(table)


def print_installation(found: dict[str, Any]) -> None:
    """`describe_installation` for people."""
    native = found["native"]
    table = _pairs()
    for name, version in found["versions"].items():
        table.add_row(name, version)
    for name, device in found["devices"].items():
        table.add_row(name, device)
    if native["problem"] is None:
        build = native["build"]
        state = "kernels agree with their references"
        if not native["kernels_agree"]:
            state = "KERNELS DISAGREE, see python -m pullback_ext"
        cuda = f"CUDA {build['cuda']}" if build["cuda"] else "no CUDA"
        table.add_row("native library", f"{build['compiler']}, {cuda}; {state}")
    else:
        table.add_row("native library", escape(f"not loaded: {native['problem']}"))
    for device in native["usable"]:
        table.add_row(f"  on {device}", "usable")
    for device, reason in native["unusable"].items():
        table.add_row(f"  on {device}", escape(f"not usable: {reason}"))
    for name in found["zoo"]:
        table.add_row("bundled model", name)
    Console().print(table)


def print_model(found: dict[str, Any]) -> None:
    """`describe_model` for people."""
    condition = found["null_condition"]
    if condition is None:
        option = "--class-label" if "class_labels" in found["takes"] else "--prompt"
        null = f"none known: give {option}"
    else:
        null = ", ".join(f"{n} {_told(v)}" for n, v in condition.items()) or "needs none"
    table = _pairs()
    table.add_row("model", escape(f"{found['name']} ({found['fingerprint']})"))
    table.add_row(
        "network", f"{found['network']} ({found['family']}), {found['parameters']:,} parameters"
    )
    weights = ", ".join(f"{name} {told(size)}" for name, size in found["weights"].items())
    table.add_row("weights", f"{told(sum(found['weights'].values()))} ({escape(weights)})")
    table.add_row("latents", _size(found["latent_shape"]))
    table.add_row("timesteps", f"0 to {found['max_timestep']} ({found['scheduler']})")
    table.add_row("predicts", found["predicts"])
    table.add_row("dtype, device", f"{found['dtype']}, {found['device']}")
    if found["call"]:
        call = ", ".join(f"{name} = {value}" for name, value in found["call"].items())
        table.add_row("call", escape(call))
    table.add_row("null condition", escape(null))
    console = Console()
    console.print(table)
    console.print()
    print_taps(found["taps"], found["default_tap"])


def print_taps(taps: Sequence[dict[str, Any]], default: str | None) -> None:
    """`describe_taps` for people, with the default marked."""
    table = columns_of(
        ("tap", "left"), ("shape of h", "right"), ("share of the forward pass", "right")
    )
    for tap in taps:
        mark = "  (default)" if tap["path"] == default else ""
        table.add_row(escape(tap["path"]) + mark, _size(tap["shape"]), f"{tap['share']:.1%}")
    Console().print(table)


def _from_to(values: Sequence[Any], form: str) -> str:
    """One value, or the first and the last one of several."""
    if values[0] is None:
        return ""
    told = [format(value, form) for value in values]
    return told[0] if len(told) == 1 else f"{told[0]} to {told[-1]}"


def _told(value: Any) -> str:
    return _size(value["shape"]) if isinstance(value, dict) else f"= {value}"


def print_with_files(table: Table | None, folder: Path, written: dict[str, str]) -> None:
    """A table, if there is one, and the files with a line about each as a tree."""
    console = Console()
    if table is not None:
        console.print(table)
        console.print()
    tree = Tree(f"[bold]{escape(str(folder))}[/bold]")
    width = max(map(len, written))
    for name, line in written.items():
        tree.add(f"{escape(name):{width}}  [dim]{escape(line)}[/dim]")
    console.print(tree)


def _decibels(psnr: float | None) -> str:
    return "exact" if psnr is None else f"{psnr:.1f} dB"


def columns_of(*heads: tuple[str, Literal["left", "right"]]) -> Table:
    """An empty table with these heads."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for head, justify in heads:
        table.add_column(head, justify=justify)
    return table


def _pairs() -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    return table


def _size(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def span(seconds: float) -> str:
    """A time that was estimated: in its largest unit, and two of them above an hour."""
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"about {seconds:.0f} s"
    if minutes < 90:
        return f"about {minutes} min"
    return f"about {minutes // 60} h {minutes % 60} min"
