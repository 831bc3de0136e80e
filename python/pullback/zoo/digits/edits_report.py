"""Tables and curves of what `pullback.zoo.digits.edits` found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pullback.zoo.digits.tables import Report, Results, interval, table_of, verdict

_INK, FAINT = "#1a1a1a", "#6b6b6b"
TITLE, LABEL, _SMALL = 10.0, 8.0, 7.0  # points
#: For `matplotlib.rc_context`, which types the keys one by one.
STYLE: Any = {
    "font.family": "DejaVu Sans",
    "mathtext.fontset": "dejavusans",
    "axes.edgecolor": FAINT,
    "axes.linewidth": 0.6,
    "text.color": _INK,
}

#: What is said of each kind, and its colour.
_KINDS = {
    "pullback": ("its own leading directions", "#2b5f94"),
    "another": ("those of another sample", "#3f9c6d"),
    "spectrum": ("noise of the same spectrum", "#c8581c"),
    "random": ("noise", FAINT),
}
_CONTROLS = ("random", "spectrum", "another")
_MARKERS = {"pullback": "o", "another": "s", "spectrum": "^", "random": "D"}
_NAMES = {
    "guidance": "guidance along v",
    "addition": "addition along v, as far",
    "random": "addition along noise, as far",
    "pullback symmetric": "u, symmetric",
    "pullback asymmetric": "u, asymmetric",
    "random symmetric": "noise, symmetric",
    "random asymmetric": "noise, asymmetric",
}


def _picked(rows: list[Results], **wanted: Any) -> Results:
    """The one row that holds these values."""
    [row] = [row for row in rows if all(row[key] == value for key, value in wanted.items())]
    return row


def _judge(found: Results) -> str:
    judge, versions = found["judge"], found["versions"]
    settings = found["settings"]
    rows = [
        ("real digits that the judge has not seen", str(judge["unseen_real_digits"])),
        ("of them labelled correctly", f"{judge['accuracy']:.1%}"),
        ("its log-loss on them", f"{judge['log_loss']:.3f}"),
        ("its calibration error on them", f"{judge['calibration_error']:.3f}"),
        ("samples", f"{settings['samples']} (seeds from {settings['seed']} on)"),
        ("condition", found["condition"]),
        ("steps of the whole schedule", f"{settings['steps']}, DDIM, eta 0"),
        ("mean norm of h at mid_block", f"{found['feature_norm']:.1f}"),
        ("fingerprint of the model", f"`{found['fingerprint']}`"),
        ("versions", ", ".join(f"{name} {version}" for name, version in versions.items())),
    ]
    return table_of(("what", "value"), rows)


def _norms(found: Results) -> str:
    rows = []
    for before in found["unedited"]:
        for strength in found["settings"]["strengths"]:
            at = {"t": before["t"], "strength": strength}
            own, noise = (
                _picked(found["additions"], kind=kind, **at) for kind in ("pullback", "random")
            )
            less = (_picked(found["equal_norm"], control=name, **at) for name in _CONTROLS)
            rows.append(
                [
                    str(before["t"]),
                    f"{strength:g} ({strength / before['latent_norm']:.0%})",
                    f"{own['energy']['mean']:.2f}",
                    f"{noise['energy']['mean']:.2f}",
                    interval(own["variation"]),
                    *(verdict(one["variation"]) for one in less),
                ]
            )
    names = ["t", "norm (of ‖x_t‖)", "RMS, own", "RMS, noise", "TV, own"]
    return table_of([*names, *(f"own − {_KINDS[name][0]}" for name in _CONTROLS)], rows)


def _energies(found: Results) -> str:
    kept = {(row["t"], row["energy"], row["control"]): row["difference"]
            for row in found["equal_energy"]}  # fmt: skip
    rows = [
        [str(t), f"{energy:g}", *(verdict(kept.get((t, energy, name))) for name in _CONTROLS)]
        for t in found["settings"]["times"]
        for energy in found["settings"]["energies"]
    ]
    return table_of(["t", "RMS change", *(f"own − {_KINDS[name][0]}" for name in _CONTROLS)], rows)


def _indices(found: Results) -> str:
    settings = found["settings"]
    rows = [
        [
            str(t),
            f"{strength:g}",
            *(
                interval(
                    _picked(found["by_index"], t=t, strength=strength, index=i + 1)["variation"]
                )
                for i in range(settings["directions"])
            ),
        ]
        for t in settings["times"]
        for strength in settings["strengths"]
    ]
    return table_of(["t", "norm", *(f"v_{i + 1}" for i in range(settings["directions"]))], rows)


def _ways(key: str) -> Callable[[Results], str]:
    """The table of ways of one kind."""

    def table(found: Results) -> str:
        rows = [
            [
                f"{row['strength']:g}",
                _NAMES[row["way"]],
                *([f"{row['norm']:.1f}"] if "norm" in row else []),
                *(interval(row[name]) for name in ("energy", "variation", "loss", "sure")),
            ]
            for row in found[key]["ways"]
        ]
        guided = ["push", "way", "norm"] if key == "guidance" else ["norm", "way"]
        return table_of([*guided, "RMS change", "TV", "loss", "sure"], rows)

    return table


def _differences(key: str) -> Callable[[Results], str]:
    """The table of paired differences between them."""

    def table(found: Results) -> str:
        rows = [
            [
                f"{row['strength']:g}",
                f"{_NAMES[row['way']]} − {_NAMES[row['minus']]}",
                *(verdict(row[name]) for name in ("energy", "variation", "loss")),
            ]
            for row in found[key]["differences"]
        ]
        names = ["push" if key == "guidance" else "norm", "difference"]
        return table_of([*names, "RMS change", "TV", "loss"], rows)

    return table


#: By the name that a page's mark has.
TABLES: dict[str, Callable[[Results], str]] = {
    "judge": _judge,
    "norms": _norms,
    "energies": _energies,
    "indices": _indices,
    "guidance": _ways("guidance"),
    "guidance compared": _differences("guidance"),
    "injection": _ways("injection"),
    "injection compared": _differences("injection"),
}


def curves(found: Results) -> Figure:
    """Total variation against the norm that is added, and against the energy, by timestep."""
    settings = found["settings"]
    times, norms = settings["times"], settings["strengths"]
    figure = Figure(figsize=(2.2 * len(times) + 0.5, 4.9), facecolor="white")
    axes = figure.subplots(2, len(times), sharex="row", sharey=True, squeeze=False)
    most = max(row["energy"]["mean"] for row in found["additions"])
    for column, t in enumerate(times):
        above, below = axes[:, column]
        for kind in reversed(_KINDS):
            rows = [row for row in found["additions"] if (row["t"], row["kind"]) == (t, kind)]
            up = [row["variation"] for row in rows]
            _curve(above, norms, up, kind)
            _curve(below, [row["energy"]["mean"] for row in rows], up, kind)
        plain(above, max(norms))
        plain(below, most)
        above.set_title(f"t = {t}", fontsize=TITLE)
        above.set_xlabel("norm added to $x_t$", fontsize=LABEL)
        below.set_xlabel("RMS change of the image", fontsize=LABEL)
        above.set_xticks([0, *norms])
    axes[0, 0].set_ylim(0, 1)
    for row in axes:
        row[0].set_ylabel("total variation of the\nclasses' probabilities", fontsize=LABEL)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(
        handles[::-1], labels[::-1], loc="upper center", ncol=len(_KINDS), fontsize=LABEL,
        frameon=False, handlelength=2.6,
    )  # fmt: skip
    figure.subplots_adjust(left=0.075, right=0.99, top=0.88, bottom=0.09, wspace=0.1, hspace=0.34)
    return figure


def _curve(axes: Axes, across: list[float], up: list[Results], kind: str) -> None:
    """Means at growing strengths with bands of their intervals, from where there is no edit."""
    label, colour = _KINDS[kind]
    x = [0.0, *across]
    low, mean, high = ([0.0, *(one[name] for one in up)] for name in ("low", "mean", "high"))
    axes.fill_between(x, low, high, color=colour, alpha=0.16, linewidth=0)
    axes.plot(
        x, mean, color=colour, linewidth=1.3, marker=_MARKERS[kind], markersize=3.4,
        markevery=range(1, len(x)), label=label, linestyle="-" if kind == "pullback" else "--",
    )  # fmt: skip


def plain(axes: Axes, top: float) -> None:
    """Two spines, small ticks, a faint grid."""
    axes.set_xlim(0, 1.03 * top)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(length=2.5, width=0.6, labelsize=_SMALL, pad=2, color=FAINT, labelcolor=_INK)
    axes.grid(color="#e6e9ed", linewidth=0.6)
    axes.set_axisbelow(True)


#: What shows what was found.
REPORT = Report("python -m pullback.zoo.digits.edits", TABLES, curves, STYLE)
