"""Bases of a large run, as they are read from its folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pullback.geometry import LocalBasis
from pullback.runs.batch_plan import Conditions, Unit
from pullback.runs.batch_store import checked_unit, read_unit


@dataclass(frozen=True, eq=False)
class UnitBases:
    """The bases of a unit's B samples at one timestep, on the CPU.

    Attributes:
        unit: which unit, with the seeds of its samples.
        condition: class label or prompt; None for the null condition; a tuple of a paired plan,
            with that of each sample.
        t: the timestep, in the scheduler's training units.
        x: latents x_t, `[B, *x_shape]`.
        s: singular values, `[B, k]`.
        v: right singular vectors, `[B, k, *x_shape]`, or of the map's other variable.
        u: left singular vectors, `[B, k, *h_shape]`; None where the plan does not keep them.
        residual: `[B, k]`, ‖Jᵀu_i − s_i v_i‖ / s_1.
        angle_bound: `[B]`, bound on the sine of the largest principal angle.
        converged: `[B]`, bool.
        rank: `[B]`, int64, the numerical rank.
        products: `[B]`, int64, with J and its transpose.
        stopped: why the solver stopped, for each sample.
        tol: the bound that was asked for.
        provenance: as that of `LocalBasis`, without the timesteps.
    """

    unit: Unit
    condition: Conditions
    t: int
    x: torch.Tensor
    s: torch.Tensor
    v: torch.Tensor
    u: torch.Tensor | None
    residual: torch.Tensor
    angle_bound: torch.Tensor
    converged: torch.Tensor
    rank: torch.Tensor
    products: torch.Tensor
    stopped: tuple[str, ...]
    tol: float
    provenance: dict[str, Any]

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.s)

    def local_basis(self) -> LocalBasis:
        """The same as a `LocalBasis`, for what takes one.

        Raises:
            ValueError: u was not kept.
        """
        if self.u is None:
            raise ValueError(
                "A LocalBasis has u, which this run did not keep. Start a run with keep_u=True "
                "(--keep-u), or take s and v as they are."
            )
        parts = {name: getattr(self, name) for name in LocalBasis.TENSORS}
        provenance = {**self.provenance, "t": [self.t] * len(self)}
        return LocalBasis(**parts, stopped=self.stopped, tol=self.tol, provenance=provenance)


def bases_of(folder: Path, unit: Unit, digest: str, place: int) -> UnitBases:
    """Read the bases of a unit at one timestep.

    Args:
        folder: of the run.
        unit: which one.
        digest: of the run's settings.
        place: which of the timesteps, from 0.

    Raises:
        ValueError: the file is damaged, or of another run.
    """
    return _bases(unit, *read_unit(folder, unit, digest, place), place)


def checked_bases_of(folder: Path, unit: Unit, digest: str) -> list[UnitBases]:
    """The bases of a unit at all timesteps, where every byte of its file is what was written.

    Raises:
        ValueError: the file is damaged, or of another run.
    """
    tensors, header = checked_unit(folder, unit, digest)
    return [
        _bases(unit, {name: one[place] for name, one in tensors.items()}, header, place)
        for place in range(len(header["timesteps"]))
    ]


def _bases(
    unit: Unit, tensors: dict[str, torch.Tensor], header: dict[str, Any], place: int
) -> UnitBases:
    fields: dict[str, Any] = {"u": None, **tensors}
    one = header["condition"]
    return UnitBases(
        unit=unit, condition=tuple(one) if isinstance(one, list) else one,
        t=header["timesteps"][place], stopped=tuple(header["stopped"][place]), tol=header["tol"],
        provenance=header["provenance"], **fields,
    )  # fmt: skip
