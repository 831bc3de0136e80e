"""Tables and curves of what `pullback.zoo.digits.transport` found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pullback.zoo.digits.edits_report import FAINT, LABEL, STYLE, TITLE, plain
from pullback.zoo.digits.tables import Report, Results, interval, table_of, verdict

_KINDS = {
    "isometric": "transported",
    "pullback": "transported, back by Σ⁻¹",
    "vjp": "transported, back by Jᵀ",
    "raw": "raw copy",
    "spectrum": "noise of the same spectrum",
    "random": "noise",
}
_DRAWN = {"isometric": "#2b5f94", "raw": "#c8581c", "spectrum": "#3f9c6d", "random": FAINT}
_PATHS = {"lerp": "#c8581c", "slerp": "#2b5f94", "shooting": "#3f9c6d"}


def _setting(found: Results) -> str:
    settings, versions = found["settings"], found["versions"]
    rows = [
        ("pairs of samples", f"{settings['pairs']} (seeds from {settings['seed']} on)"),
        ("rank of the bases, of h at mid_block", str(settings["rank"])),
        ("directions of each source", f"v_1 to v_{settings['directions']}"),
        ("norm that is added", f"{settings['strength']:g}, forwards and backwards"),
        ("condition", found["condition"]),
        ("steps of the whole schedule", f"{settings['steps']}, DDIM, eta 0"),
        ("accuracy of the judge on unseen real digits", f"{found['judge']['accuracy']:.1%}"),
        ("fingerprint of the model", f"`{found['fingerprint']}`"),
        ("versions", ", ".join(f"{name} {version}" for name, version in versions.items())),
    ]
    return table_of(("what", "value"), rows)


def _following(found: Results) -> str:
    kept = {one["t"]: one for one in found["retained"]}
    rows = [
        [
            str(row["t"]),
            _KINDS[row["kind"]],
            *(interval(row[name]) for name in ("gain", "image", "variation", "energy")),
            interval(kept[row["t"]]) if row["kind"] == "isometric" else "",
        ]
        for row in found["following"]
    ]
    return table_of(["t", "way", "gain", "image", "TV", "RMS change", "retained"], rows)


def _compared(found: Results) -> str:
    rows = [
        [
            str(row["t"]),
            f"{_KINDS[row['kind']]} − {_KINDS[row['minus']]}",
            *(verdict(row[name]) for name in ("gain", "image")),
        ]
        for row in found["following_compared"]
    ]
    return table_of(["t", "difference", "gain", "image"], rows)


def _distances(found: Results) -> str:
    far = found["distances"]
    times = found["settings"]["distance_times"]
    rows = [
        [
            str(row["t"]),
            interval(row),
            *(f"{far['across_times'][place][j]['mean']:.2f}" for j in range(len(times))),
        ]
        for place, row in enumerate(far["across_samples"])
    ]
    return table_of(["t", "across samples", *(f"to t = {t}" for t in times)], rows)


def _lengths(found: Results) -> str:
    rows = [
        [
            str(row["t"]),
            row["kind"],
            *(interval(row[name]) for name in ("length", "latent_length", "gap")),
        ]
        for row in found["paths"]
    ]
    return table_of(["t", "way", "semantic length", "length in x", "gap at the end"], rows)


def _order(found: Results) -> str:
    rows = [
        [str(row["t"]), f"{row['kind']} − {row['minus']}", verdict(row["length"])]
        for row in found["paths_compared"]
    ]
    return table_of(["t", "difference", "semantic length"], rows)


def _averaged(found: Results) -> str:
    rows = [
        [
            str(row["t"]),
            row["how"],
            *(interval(row[name]) for name in ("gain", "image", "variation", "energy")),
        ]
        for row in found["averaged"]
    ]
    return table_of(["t", "way", "gain", "image", "TV", "RMS change"], rows)


#: By the name that a page's mark has.
TABLES: dict[str, Callable[[Results], str]] = {
    "setting": _setting,
    "following": _following,
    "following compared": _compared,
    "distances": _distances,
    "paths": _lengths,
    "paths compared": _order,
    "averaged": _averaged,
}


def curves(found: Results) -> Figure:
    """How changes follow by timestep, how far tangent spaces are apart, how paths bend."""
    times = found["settings"]["path_times"]
    figure = Figure(figsize=(2.7 * (2 + len(times)), 2.7), facecolor="white")
    follow, apart, *bends = figure.subplots(1, 2 + len(times))
    for kind, colour in _DRAWN.items():
        rows = [row for row in found["following"] if row["kind"] == kind]
        _curve(
            follow, [row["t"] for row in rows], [row["gain"] for row in rows], _KINDS[kind], colour
        )
    follow.set_title("Does the class change follow?", fontsize=TITLE)
    follow.set_ylabel("cosine of the classes' gains", fontsize=LABEL)
    far = found["distances"]
    rows = far["across_samples"]
    _curve(apart, [row["t"] for row in rows], rows, "across samples", "#2b5f94")
    apart.axhline(far["chance"], color=FAINT, linewidth=0.8, linestyle=":", label="random spaces")
    apart.set_title("Distance of tangent spaces", fontsize=TITLE)
    apart.set_ylabel("geodesic distance, rad", fontsize=LABEL)
    for axes in (follow, apart):
        plain(axes, 1000)
        axes.invert_xaxis()
        axes.set_xlabel("t", fontsize=LABEL)
    most = max(one["high"] for row in found["paths"] for one in row["segments"])
    for axes, t in zip(bends, times, strict=True):
        for row in found["paths"]:
            if row["t"] == t:
                count = len(row["segments"])
                along = [(place + 0.5) / count for place in range(count)]
                _curve(axes, along, row["segments"], row["kind"], _PATHS[row["kind"]])
        plain(axes, 1)
        axes.set_ylim(0, 1.05 * most)
        axes.set_title(f"Paths at t = {t}", fontsize=TITLE)
        axes.set_xlabel("along the path", fontsize=LABEL)
        axes.set_ylabel("distance per segment, rad", fontsize=LABEL)
    apart.set_ylim(bottom=0)
    follow.set_ylim(0, 0.6)  # the legend stands above all curves
    for axes, place in ((follow, "upper right"), (apart, "lower right"), (bends[0], "upper right")):
        axes.legend(fontsize=LABEL - 1, frameon=False, loc=place)
    figure.tight_layout()
    return figure


def _curve(axes: Axes, across: list[Any], up: list[Results], label: str, colour: str) -> None:
    """Means with bands of their intervals."""
    low, mean, high = ([one[name] for one in up] for name in ("low", "mean", "high"))
    axes.fill_between(across, low, high, color=colour, alpha=0.16, linewidth=0)
    marker = "o" if len(across) < 12 else ""
    axes.plot(across, mean, color=colour, linewidth=1.3, marker=marker, markersize=3, label=label)


#: What shows what was found.
REPORT = Report("python -m pullback.zoo.digits.transport", TABLES, curves, STYLE)
