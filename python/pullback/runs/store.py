"""The files of a run: one pair per timestep, and one summary of all.

    latents_t0900.safetensors   x [B, *x_shape], the latents x_t
    basis_t0900.safetensors     their LocalBasis
    summary.json                settings, versions and what was reached

The files of a timestep carry the settings that they were computed with, and are read only where
all of them are those that are asked for now.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from pullback._files import write_safetensors
from pullback.geometry import LocalBasis
from pullback.runs.settings import (
    check_same,
    damaged,
    header_of,
    json_of,
    mapping_of,
    settings_of_summary,
)

#: Of summary.json.
SUMMARY_FORMAT = "pullback.summary/1"

_LATENTS_FORMAT = "pullback.latents/1"


@dataclass(frozen=True)
class TimestepBases:
    """The bases of all samples at one timestep.

    Attributes:
        t: the timestep, in the scheduler's training units.
        x: the latents x_t, `[B, *x_shape]`, on the CPU.
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
    """Where the bases of a timestep t, in training units, lie."""
    return folder / f"basis_t{t:04d}.safetensors"


def latents_path(folder: Path, t: int) -> Path:
    """Where the latents of a timestep t, in training units, lie."""
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
    there, seconds = _run_of(path, basis.provenance)
    check_same(path, there, settings)
    wanted = [len(settings.get("sample_seeds", basis.s)), settings.get("rank", basis.s.shape[1])]
    if list(basis.s.shape) != wanted:
        raise damaged(path, f"expected s of shape {wanted}, got {list(basis.s.shape)}")
    x = _read_latents(latents_path(folder, t), settings)
    if x is None:
        return None
    if len(x) != len(basis):
        raise damaged(latents_path(folder, t), f"expected {len(basis)} samples, got {len(x)}")
    shape = [len(basis), *basis.v.shape[2:]]
    if basis.provenance.get("wrt") == "x" and list(x.shape) != shape:
        raise damaged(latents_path(folder, t), f"expected x {shape}, got {list(x.shape)}")
    return TimestepBases(t, x, basis, seconds, reused=True)


def check_folder(
    folder: Path, settings: dict[str, Any], timesteps: Sequence[int], *, overwrite: bool
) -> None:
    """Raise unless a folder is empty of results, or they are all of one plan that may go on.

    Args:
        folder: an existing folder.
        settings: all that the plan's results depend on, without the timestep.
        timesteps: of the plan, in training units.
        overwrite: whether files of other settings may be replaced.

    Raises:
        ValueError: a file has other settings or is damaged, or the plan leaves out a timestep that
            is there: its summary and figures would be of one part of the folder.
    """
    there = {int(path.stem.partition("_t")[2]): path for path in _all(folder, basis_path)}
    if not overwrite:
        for path in (*there.values(), *_all(folder, latents_path), summary_path(folder)):
            if path.exists():
                check_same(path, _settings_of(path), settings)
    left_out = sorted(there.keys() - set(timesteps), reverse=True)
    if left_out:
        raise ValueError(
            f"{folder} holds bases at the timesteps {', '.join(map(str, left_out))} too, which are "
            f"not asked for now ({', '.join(map(str, timesteps))} are). Its summary and figures "
            "must be of one plan: ask for all of them, remove those files, or choose another "
            "--output folder."
        )


def _all(folder: Path, path_of: Callable[[Path, int], Path]) -> list[Path]:
    """The files of all timesteps that a folder has, of one kind."""
    name = re.escape(path_of(Path(), 0).name).replace("0000", r"\d{4,}")
    return sorted(path for path in folder.iterdir() if re.fullmatch(name, path.name))


def _settings_of(path: Path) -> dict[str, Any]:
    """The settings that a file of a run carries."""
    if path.suffix == ".json":
        settings = settings_of_summary(path, SUMMARY_FORMAT)
        return {name: value for name, value in settings.items() if name != "timesteps"}
    metadata = header_of(path)
    if "settings" in metadata:
        return mapping_of(path, "settings", json_of(path, metadata["settings"]))
    provenance = mapping_of(path, "provenance", json_of(path, metadata.get("provenance", "null")))
    return _run_of(path, provenance)[0]


def _run_of(path: Path, provenance: dict[str, Any]) -> tuple[dict[str, Any], float]:
    """The settings and seconds of a run, from a basis's provenance; none of one of no run."""
    run = mapping_of(path, "run", provenance.get("run", {}))
    seconds = run.get("seconds", 0.0)
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not seconds >= 0:
        raise damaged(path, f"expected seconds of 0 or more, got {seconds!r:.60}")
    return mapping_of(path, "settings", run.get("settings", {})), float(seconds)


def _read_latents(path: Path, settings: dict[str, Any]) -> torch.Tensor | None:
    """Latents of these settings; None where there are none."""
    if not path.exists() or _settings_of(path) != settings:
        return None
    try:
        with safe_open(path, framework="pt") as file:
            x: torch.Tensor = file.get_tensor("x")
    except SafetensorError as error:
        raise damaged(path, str(error)) from error
    dtype = settings.get("dtype", str(x.dtype).removeprefix("torch."))
    if str(x.dtype) != f"torch.{dtype}" or not x.is_floating_point() or x.dim() < 2:
        raise damaged(path, f"expected x [B, ...] in {dtype}, got {list(x.shape)} in {x.dtype}")
    if not bool(torch.isfinite(x).all()):
        raise damaged(path, "expected finite latents, got NaN or Inf")
    return x
