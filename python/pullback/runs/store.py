"""The files of a run: one pair per timestep, and one summary of all.

    latents_t0900.safetensors   x [B, C, H, W], the latents x_t
    basis_t0900.safetensors     their LocalBasis
    summary.json                settings, versions and what was reached

The files of a timestep carry the settings that they were computed with, and are read only where
all of them are those that are asked for now.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from pullback._files import write_safetensors
from pullback.geometry import LocalBasis

_LATENTS_FORMAT = "pullback.latents/1"


@dataclass(frozen=True)
class TimestepBases:
    """The bases of all samples at one timestep.

    Attributes:
        t: the timestep, in the scheduler's training units.
        x: the latents x_t, `[B, C, H, W]`, on the CPU.
        basis: their bases, on the CPU.
        seconds: that the bases took, without the sampling of x.
        reused: whether they were read from files.
    """

    t: int
    x: torch.Tensor
    basis: LocalBasis
    seconds: float
    reused: bool


def basis_path(folder: Path, t: int) -> Path:
    """Where the bases of a timestep lie."""
    return folder / f"basis_t{t:04d}.safetensors"


def latents_path(folder: Path, t: int) -> Path:
    """Where the latents of a timestep lie."""
    return folder / f"latents_t{t:04d}.safetensors"


def summary_path(folder: Path) -> Path:
    """Where the summary of a folder lies."""
    return folder / "summary.json"


def write(folder: Path, bases: TimestepBases, settings: dict[str, Any]) -> TimestepBases:
    """Write the two files of a timestep.

    Args:
        folder: an existing folder.
        bases: what was computed.
        settings: all that it depends on, as `Plan.settings` tells it.

    Returns:
        The bases with the settings in their provenance, as `read` finds them.
    """
    run = {"settings": settings, "seconds": bases.seconds}
    basis = replace(bases.basis, provenance={**bases.basis.provenance, "run": run})
    # The basis comes last: where it is, the latents are.
    write_safetensors(
        latents_path(folder, bases.t),
        {"x": bases.x},
        {"format": _LATENTS_FORMAT, "settings": json.dumps(settings)},
    )
    basis.save(basis_path(folder, bases.t))
    return replace(bases, basis=basis)


def read(folder: Path, t: int, settings: dict[str, Any]) -> TimestepBases | None:
    """What the folder has of a timestep; None if that is not complete.

    Raises:
        ValueError: the basis was computed with other settings, or a file is damaged.
    """
    path = basis_path(folder, t)
    if not path.exists():
        return None
    try:
        basis = LocalBasis.load(path)
    except ValueError as error:
        raise ValueError(f"{error} To do so, call this again with --overwrite.") from error
    run = basis.provenance.get("run", {})
    there = run.get("settings", {})
    if there != settings:
        changed = ", ".join(
            f"{name} {there.get(name, 'unknown')} (now {value})"
            for name, value in settings.items()
            if there.get(name) != value
        )
        raise ValueError(
            f"{path} was computed with other settings: {changed}. Choose another --output folder "
            "to keep it, or replace it with --overwrite."
        )
    x = _read_latents(latents_path(folder, t), settings)
    return None if x is None else TimestepBases(t, x, basis, float(run["seconds"]), reused=True)


def _read_latents(path: Path, settings: dict[str, Any]) -> torch.Tensor | None:
    """Latents of these settings; None where there are none."""
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if json.loads(metadata.get("settings", "null")) != settings:
                return None
            return file.get_tensor("x")
    except (SafetensorError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{path} is damaged ({error}). Compute it again with --overwrite."
        ) from error
