"""Bases of a run, published for reading: one pair of files per timestep, and one summary of all.

    latents_t0900.safetensors   x [B, *x_shape], the latents x_t
    basis_t0900.safetensors     their LocalBasis
    summary.json                settings, versions and what was reached

They are made of the run's units when all of them are there, by one process, and carry the run's
settings.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from pullback._files import write_safetensors
from pullback.geometry import LocalBasis
from pullback.runs.batch_run import BatchRun
from pullback.runs.batch_store import plan_path, read_note, receipt_path
from pullback.runs.settings import header_of, json_of

#: Of summary.json.
SUMMARY_FORMAT = "pullback.summary/1"

_LATENTS_FORMAT = "pullback.latents/1"

#: The names of both kinds of files, of any timestep.
_PUBLISHED = re.compile(r"(basis|latents)_t\d{4,}\.safetensors")


@dataclass(frozen=True)
class TimestepBases:
    """The bases of all samples at one timestep.

    Attributes:
        t: the timestep, in the scheduler's training units.
        x: the latents x_t, `[B, *x_shape]`, on the CPU.
        basis: their bases, on the CPU.
        seconds: that the bases took, without the sampling of x.
        reused: whether all of them were there already.
    """

    t: int
    x: torch.Tensor
    basis: LocalBasis
    seconds: float
    reused: bool


def basis_path(folder: Path, t: int) -> Path:
    """Where the bases of a timestep t, in training units, lie."""
    return folder / f"basis_t{t:04d}.safetensors"


def latents_path(folder: Path, t: int) -> Path:
    """Where the latents of a timestep t, in training units, lie."""
    return folder / f"latents_t{t:04d}.safetensors"


def summary_path(folder: Path) -> Path:
    """Where the summary of a folder lies."""
    return folder / "summary.json"


def publish(run: BatchRun, *, reused: bool) -> dict[int, TimestepBases]:
    """Write the two files of every timestep of a run, where they are not there as they should be.

    Args:
        run: one of which all units are there, with u.
        reused: whether they were there before.

    Returns:
        What was written, by the timestep.

    Raises:
        ValueError: a unit's file is damaged, or of another run.
        OSError: a file cannot be written.

    Cost: every unit is read once, and its checksums are computed.
    """
    units = [run.checked(unit) for unit in run.units]
    notes = [read_note(receipt_path(run.folder, unit.number)) or {} for unit in run.units]
    found = {}
    for place, t in enumerate(run.plan.timesteps):
        bases = [unit[place] for unit in units]
        x = torch.cat([one.x for one in bases])
        parts: dict[str, Any] = {
            name: torch.cat([getattr(one, name) for one in bases]) for name in LocalBasis.TENSORS
        }
        basis = LocalBasis(
            **parts,
            stopped=tuple(why for one in bases for why in one.stopped),
            tol=run.plan.tol,
            provenance={
                **bases[0].provenance, "t": [t] * len(x), "run": {"settings": run.settings}
            },
        )  # fmt: skip
        # A receipt is lost where a process was killed between a unit and its receipt.
        known = [note["seconds_of_bases"][place] for note in notes if "seconds_of_bases" in note]
        found[t] = TimestepBases(t, x, basis, sum(known), reused)
        _write(run.folder, found[t])
    return found


def check_unpublished(folder: Path) -> None:
    """Raise where a folder holds bases that no run in it has made, such as an earlier version's.

    Raises:
        ValueError: there are some.
    """
    there = _published(folder)
    if there:
        raise ValueError(
            f"{there[0]} is of no run: expected a {plan_path(folder).name} beside it, which says "
            "what it was computed with. Choose another --output folder to keep it, or replace it "
            "with --overwrite."
        )


def clear_published(folder: Path) -> None:
    """Remove the files of all timesteps, which show a run that is to be replaced."""
    for path in _published(folder):
        path.unlink()


def _published(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if _PUBLISHED.fullmatch(path.name))


def _write(folder: Path, bases: TimestepBases) -> None:
    # The basis comes last: where it is, the latents are.
    latents, basis = latents_path(folder, bases.t), basis_path(folder, bases.t)
    settings = bases.basis.provenance["run"]["settings"]
    if not _has_latents(latents, bases.x, settings):
        header = {"format": _LATENTS_FORMAT, "settings": json.dumps(settings)}
        write_safetensors(latents, {"x": bases.x}, header)
    if not _has_basis(basis, bases.basis):
        bases.basis.save(basis)


def _has_latents(path: Path, x: torch.Tensor, settings: dict[str, Any]) -> bool:
    """Whether a file holds these latents of these settings."""
    try:
        header = header_of(path)
        there = json_of(path, header.get("settings", "null"))
        return there == settings and torch.equal(load_file(path)["x"], x)
    except (ValueError, KeyError, SafetensorError):
        return False


def _has_basis(path: Path, basis: LocalBasis) -> bool:
    """Whether a file holds this basis."""
    try:
        there = LocalBasis.load(path)
    except (FileNotFoundError, ValueError):
        return False
    same = (torch.equal(one, basis.tensors()[name]) for name, one in there.tensors().items())
    return there.provenance == basis.provenance and all(same)
