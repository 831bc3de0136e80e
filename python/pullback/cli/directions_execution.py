"""From a request for directions, or for a comparison, to files and what is said about them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from pullback import directions, runs
from pullback.cli.pictures import mask_of
from pullback.cli.progress import Reporter
from pullback.cli.request import Delivery
from pullback.cli.tables import print_comparison, print_found, print_json, print_methods
from pullback.directions import Comparison, Direction
from pullback.geometry import LocalBasis
from pullback.models import LatentModel
from pullback.runs import FoundDirections

_WAYS: dict[str, type[runs.Finding]] = {
    one.method: one
    for one in (
        runs.OfPullback,
        runs.OfTrajectories,
        runs.OfSpectral,
        runs.OfSupervised,
        runs.OfBoundary,
        runs.OfWeights,
        runs.OfLocal,
        runs.OfTarget,
    )
}


def list_methods(found: Collection[str], *, as_json: bool) -> None:
    """Print the table of methods, each with its command.

    Args:
        found: methods that `pullback directions find` has.
        as_json: print one JSON object.
    """
    rows = [{**asdict(one), "command": _command(one.name, found)} for one in directions.available()]
    if as_json:
        print_json({"methods": rows})
    else:
        print_methods(rows)


def execute_find(
    method: str,
    options: dict[str, Any],
    mask: Path | None,
    delivery: Delivery,
    read: Callable[[], LatentModel],
) -> None:
    """Read the model, find directions, write and report.

    Args:
        method: its name in the table of methods.
        options: of the method, by the names that its class in `runs` has.
        mask: file of an image, or None.
        delivery: where it goes, into a folder that exists, and what is shown.
        read: reads the model.

    Raises:
        ValueError: the model cannot give what is asked for, or the folder holds other results.
    """
    options = dict(options)
    if mask is not None:
        options["mask"] = mask_of(mask)
    if options.get("scores") is not None:
        options["scores"] = torch.tensor(options["scores"], dtype=torch.float64)
    reporter = Reporter(delivery.quiet)
    with reporter.warnings():
        with reporter.waiting("loading the model"):
            model = read()
            finding = _WAYS[method](**options)
            finding.check(model)
        with reporter.finding(method) as progress:
            done = runs.find_directions(
                model, finding, delivery.folder,
                memory=delivery.memory, overwrite=delivery.overwrite, progress=progress,
            )  # fmt: skip
    if delivery.as_json:
        print_json(done.summary)
    elif not delivery.quiet:
        print_found(done.summary, delivery.folder, _described(done))


def execute_compare(
    files: Sequence[Path], subspace: Path | None, output: Path | None, *, as_json: bool
) -> None:
    """Compare directions of files, and print what they have in common.

    Args:
        files: of one direction or of several each.
        subspace: file of local bases, or None.
        output: file of a figure, or None.
        as_json: print one JSON object.

    Raises:
        ValueError: a file holds no directions, or they do not lie in one space.
    """
    given = [one for path in files for one in _named(path, files)]
    if len(given) < 2:
        raise ValueError(f"Expected two directions or more to compare, got {len(given)}.")
    found = directions.compare(given)
    retained = None
    if subspace is not None:
        retained = directions.retained(given, LocalBasis.load(subspace)).tolist()
    if output is not None:
        _draw(found, output)
    if as_json:
        cosines = found.cosines.tolist()
        print_json({"names": list(found.names), "cosines": cosines, "retained": retained})
    else:
        print_comparison(found.names, found.cosines.tolist(), retained)


def _named(path: Path, files: Sequence[Path]) -> list[Direction]:
    """The directions of a file, called by its name; those of one edit with their timesteps."""
    parts = directions.load(path)
    alone = sum(one.stem == path.stem for one in files) == 1
    name = (path.stem if alone else str(path.with_suffix("")))[-80:]
    if len(parts) == 1:
        return [parts[0].renamed(name)]
    return [one.renamed(f"{name} t={one.t}") for one in parts]


def _draw(found: Comparison, output: Path) -> None:
    """Write the figure of the angles between directions."""
    from pullback import figures

    figures.save(figures.angle_matrix(found), output)


def _command(name: str, found: Collection[str]) -> str | None:
    """The command that finds directions by a method; None where there is none."""
    if name in found:
        return f"pullback directions find {name}"
    shared = {"global": "pullback global", "metric": "pullback global --how metric"}
    return shared.get(name)


def _described(done: FoundDirections) -> dict[str, str]:
    """The names of the files, each with a line about it."""
    lines = {runs.found_path(Path()).name: "settings, and what is known of each direction"}
    for row in done.summary["directions"]:
        count = len(row["t"])
        what = "1 direction" if count == 1 else f"{count} directions, which are applied together"
        lines[row["file"]] = f"{what}{', reused' * done.reused}"
    return lines
