"""Tables and a picture of what `pullback.zoo.digits.directions` found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pullback.zoo.digits.edits_report import FAINT, LABEL, STYLE, TITLE
from pullback.zoo.digits.tables import Report, Results, interval, table_of, verdict

_OURS, _SPACES = "#2b5f94", {"x": "latents", "h": "feature"}


def _setting(found: Results) -> str:
    settings, versions = found["settings"], found["versions"]
    scale = ", ".join(f"{name} {value:.3g}" for name, value in found["scale"].items())
    rows = [
        ("samples with directions of their own", str(settings["samples"])),
        ("other samples, where effects are measured", str(settings["samples"])),
        ("directions of a way that orders them", f"{settings['directions']} leading ones"),
        ("samples for PCA and labels", str(settings["learning"])),
        ("edits begin at", f"t = {settings['t']}"),
        ("strengths", ", ".join(f"{one:g}" for one in settings["strengths"])),
        ("strength 1 changes images by", f"{settings['energy']:g} (RMS, of a range of 2)"),
        ("region of masked ways", "upper half"),
        ("condition", found["condition"]),
        ("steps of the whole schedule", f"{settings['steps']}, DDIM, eta 0"),
        ("one unit of each attribute", scale),
        ("accuracy of the judge on unseen real digits", f"{found['judge']['accuracy']:.1%}"),
        ("fingerprint of the model", f"`{found['fingerprint']}`"),
        ("threads", str(found["threads"])),
        ("versions", ", ".join(f"{name} {version}" for name, version in versions.items())),
    ]
    return table_of(("what", "value"), rows)


def effects(found: Results) -> tuple[list[str], list[list[str]]]:
    """Heads and rows of the table of what each way does."""
    rows = [
        [
            row["way"],
            _SPACES[row["space"]],
            row["meant"] or "its own",
            _energy(row),
            interval(row["effect"]),
            verdict(row["effect_less_noise"]),
            interval(row["side"]),
            interval(row["linearity"]),
            interval(row["inside"]),
            interval(row["transfer"]),
            verdict(row["transfer_less_noise"]),
        ]
        for row in found["ways"]
    ]
    heads = [
        "way", "space", "attribute", "RMS change", "effect", "less noise", "side effects",
        "linearity", "in the region", "transfer", "less noise's",
    ]  # fmt: skip
    return heads, rows


def costs(found: Results) -> tuple[list[str], list[list[str]]]:
    """Heads and rows of the table of what finding took."""
    rows = [
        [
            row["way"],
            "one" if row["samples"] == "own" else str(row["samples"]),
            str(row["directions"]),
            f"{row['products']:.0f}",
            f"{row['rows']:.0f}",
            _ratio(row["seconds"] / found["ways"][0]["seconds"]),
        ]
        for row in found["ways"]
    ]
    heads = ["way", "samples", "directions", "products", "rows of the network", "time"]
    return heads, rows


def _ratio(value: float) -> str:
    """Two digits where there is a fraction, and whole numbers above."""
    return f"{value:.2g}" if value < 10 else f"{value:,.0f}"


def _energy(row: Results) -> str:
    told = interval(row["energy"])
    return told if row["reached"] == row["directions"] else f"{told}, not reached"


def _variants(found: Results) -> str:
    rows = [
        [
            row["variant"],
            interval(row["gain_over_noise"]),
            interval(row["retained"]),
            interval(row["noise_retained"]),
            f"{row['pca_retained']:.2f}",
            interval(row["energy"]),
            verdict(row["energy_less_noise"]),
        ]
        for row in found["variants"]
    ]
    heads = [
        "way", "gain over noise's", "in the pullback space", "noise there", "in the PCA space",
        "RMS change", "less noise's",
    ]  # fmt: skip
    return table_of(heads, rows)


def _places(found: Results) -> str:
    rows = [
        [
            row["variant"],
            row["layer"],
            row["site"],
            f"{row['window'][0]} to {row['window'][1]}",
            interval(row["energy"]),
            verdict(row["energy_less_noise"]),
        ]
        for row in found["places"]
    ]
    return table_of(["way", "layer", "site", "t", "RMS change", "less noise's"], rows)


#: By the name that a page's mark has.
TABLES: dict[str, Callable[[Results], str]] = {
    "setting": _setting,
    "effects": lambda found: table_of(*effects(found)),
    "costs": lambda found: table_of(*costs(found)),
    "variants": _variants,
    "places": _places,
}


def curves(found: Results) -> Figure:
    """Effects and transfer of every way beside those of noise."""
    ways = found["ways"]
    figure = Figure(figsize=(9.6, 0.27 * len(ways) + 1.1), facecolor="white")
    panels = figure.subplots(1, 3, sharey=True)
    names = (
        ("effect", "noise_effect", "Effect on its attribute", "deviations of the samples"),
        ("side", None, "Side effects", "deviations, mean of the others"),
        ("transfer", "noise_transfer", "Transfer", "cosine of changes at two samples"),
    )
    for axes, (name, noise, title, label) in zip(panels, names, strict=True):
        if noise is not None:
            _dots(axes, [row[noise] for row in ways], FAINT, "noise of the same norm", 0.16)
        _dots(axes, [row[name] for row in ways], _OURS, "the way", -0.16 if noise else 0.0)
        axes.axvline(0, color=FAINT, linewidth=0.6)
        axes.set_title(title, fontsize=TITLE)
        axes.set_xlabel(label, fontsize=LABEL)
        axes.tick_params(labelsize=LABEL)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(range(len(ways)), [row["way"] for row in ways])
    panels[0].invert_yaxis()
    panels[0].legend(fontsize=LABEL - 1, frameon=False, loc="lower right")
    figure.tight_layout()
    return figure


def _dots(axes: Axes, values: list[dict[str, Any]], colour: str, label: str, shift: float) -> None:
    """Means with lines of their intervals, one below another."""
    places = [place + shift for place in range(len(values))]
    low, mean, high = ([one[name] for one in values] for name in ("low", "mean", "high"))
    axes.hlines(places, low, high, color=colour, linewidth=1.4)
    axes.plot(mean, places, "o", color=colour, markersize=3.5, label=label)


#: What shows what was found.
REPORT = Report("python -m pullback.zoo.digits.directions", TABLES, curves, STYLE)
