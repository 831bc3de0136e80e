"""From a way to find directions to a folder of them.

pca-0.safetensors     one edit: a direction, or several that are applied together
directions.json       settings, and what is known of each

A folder is of one way with its settings: it is reused where all of them are those that are asked
for now, and never overwritten unasked.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pullback import directions
from pullback._files import occupied, write_json
from pullback._version import __version__
from pullback.directions import Direction
from pullback.models import LatentModel
from pullback.runs.finding import Finding, Progress
from pullback.runs.settings import check_same, damaged, mapping_of, summary_of

#: Of directions.json.
FIND_FORMAT = "pullback.directions/1"

#: What the provenance of directions says in numbers, by method or several.
_NUMBERS = (
    "s", "gain", "leakage", "eigenvalue", "deviation", "ratio", "separation", "accuracy",
)  # fmt: skip


#: The names of the files of all ways.
_FILE = re.compile(rf"({'|'.join(one.name for one in directions.available())})-\d+\.safetensors")


@dataclass(frozen=True, eq=False)
class FoundDirections:
    """What was found, or read from files.

    Attributes:
        summary: settings, files and numbers, as directions.json has them.
        reused: whether they were read from files.
    """

    summary: dict[str, Any]
    reused: bool


def found_path(folder: Path) -> Path:
    """Where the summary of the directions of a folder lies."""
    return folder / "directions.json"


def find_directions(
    model: LatentModel,
    finding: Finding,
    folder: Path,
    *,
    memory: int | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> FoundDirections:
    """Find directions, or read those that the folder has.

    Args:
        model: the model.
        finding: the way; call `finding.check(model)` first for early errors.
        folder: an existing folder.
        memory: memory budget of a pass, in bytes.
        overwrite: find again what is there, whatever its settings.
        progress: is called with the samples done, and all, by ways that walk samples.

    Raises:
        ValueError: a file has other settings, or is damaged; or there are no such directions.
        OSError: another process is at work in the folder, or it cannot be written to.

    Cost: that of the way.
    """
    with occupied(folder):
        settings = finding.settings(model)
        there = {path.name for path in folder.iterdir() if _FILE.fullmatch(path.name)}
        if not overwrite:
            listed = _listed(folder, settings)
            read = {name: _read(folder / name, settings) for name in sorted(there)}
            if listed and there.issuperset(listed):
                kept = [read[name] for name in listed]
                return FoundDirections(_summary(model, finding, settings, kept), reused=True)
        found = finding.found(model, memory, progress)
        run = {"settings": settings}
        edits = tuple(
            tuple(replace(one, provenance={**one.provenance, "run": run}) for one in edit)
            for edit in found
        )
        summary = _summary(model, finding, settings, edits)
        # Without it, what is written from now on is not taken for all of it.
        found_path(folder).unlink(missing_ok=True)
        for edit, row in zip(edits, summary["directions"], strict=True):
            directions.save(edit, folder / row["file"])
        # Of another way or of a larger rank, before.
        for name in there - {row["file"] for row in summary["directions"]}:
            (folder / name).unlink()
        # The summary comes last: where it is, its directions are.
        write_json(found_path(folder), summary)
    return FoundDirections(summary, reused=False)


def _listed(folder: Path, settings: dict[str, Any]) -> list[str]:
    """The files that a summary of these settings names; none where there is no summary."""
    path = found_path(folder)
    if not path.exists():
        return []
    there = summary_of(path, FIND_FORMAT)
    check_same(path, mapping_of(path, "settings", there.get("settings")), settings)
    rows = there.get("directions")
    listed = isinstance(rows, list) and all(isinstance(one, dict) for one in rows)
    names: list[Any] = [one.get("file") for one in rows] if listed else []  # type: ignore[union-attr]
    if not names or not all(isinstance(name, str) for name in names):
        raise damaged(path, f"expected files of directions, got {rows!r:.60}")
    return names


def _read(path: Path, settings: dict[str, Any]) -> tuple[Direction, ...]:
    """An edit of a file that has these settings."""
    try:
        found = directions.load(path)
    except ValueError as error:
        raise ValueError(f"{error} To do so, call this again with --overwrite.") from error
    for one in found:
        run = mapping_of(path, "run", one.provenance.get("run", {}))
        check_same(path, mapping_of(path, "settings", run.get("settings", {})), settings)
    return found


def _summary(
    model: LatentModel,
    finding: Finding,
    settings: dict[str, Any],
    edits: Sequence[Sequence[Direction]],
) -> dict[str, Any]:
    """Settings and what is known of the directions, as plain JSON values without NaN."""
    return {
        "format": FIND_FORMAT,
        "settings": settings,
        "versions": {"pullback": __version__}
        | {name: settings[name] for name in ("torch", "diffusers")},
        "shapes": {"x": list(model.latent_shape), "direction": list(edits[0][0].vector.shape)},
        "method": finding.method,
        "directions": [
            {"file": f"{finding.method}-{place}.safetensors", **_row(edit)}
            for place, edit in enumerate(edits)
        ],
    }


def _row(edit: Sequence[Direction]) -> dict[str, Any]:
    """What is known of one edit; of several directions t and unit of each."""
    first = edit[0]
    known = first.provenance
    numbers = {name: known[name] for name in _NUMBERS if known.get(name) is not None}
    if "leakage" in numbers:
        ratio = numbers["gain"] / numbers["leakage"] if numbers["leakage"] else math.inf
        numbers["ratio"] = ratio if math.isfinite(ratio) else None
    return {
        "name": first.name,
        "space": first.space,
        "tap": first.tap,
        "pool": first.pool,
        "t": [one.t for one in edit],
        "unit": [one.unit for one in edit],
        **numbers,
    }
