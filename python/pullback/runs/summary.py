"""What a run reached, in one JSON object."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from pullback.models import LatentModel
from pullback.runs.store import SUMMARY_FORMAT, TimestepBases, basis_path, latents_path


def summarize(model: LatentModel, bases: Sequence[TimestepBases]) -> dict[str, Any]:
    """Settings, provenance and what was reached, as plain JSON values without NaN.

    Args:
        model: the model of the plan.
        bases: what `discover` returned, one entry per timestep of the plan.
    """
    origin = bases[0].basis.provenance
    return {
        "format": SUMMARY_FORMAT,
        # As the files have them, so that no weights are read for it again.
        "settings": origin["run"]["settings"],
        "shapes": {
            "x": list(model.latent_shape),
            "v": list(bases[0].basis.v.shape[2:]),
            "u": list(bases[0].basis.u.shape[2:]),
        },
        "versions": {name: origin[name] for name in ("pullback", "torch", "diffusers")},
        "timesteps": [_summary_of(item) for item in bases],
    }


def _summary_of(bases: TimestepBases) -> dict[str, Any]:
    basis = bases.basis
    s = basis.s.double()
    low, median, high = torch.quantile(
        s, torch.tensor([0.25, 0.5, 0.75], dtype=s.dtype, device=s.device), dim=0
    )
    reasons = {reason: basis.stopped.count(reason) for reason in sorted(set(basis.stopped))}
    products = basis.products.double()
    return {
        "t": bases.t,
        "basis": basis_path(Path(), bases.t).name,
        "latents": latents_path(Path(), bases.t).name,
        "samples": len(basis),
        "converged": int(basis.converged.sum()),
        "stopped": reasons,
        "s": {
            "median": median.tolist(),
            "lower_quartile": low.tolist(),
            "upper_quartile": high.tolist(),
        },
        "rank": {"min": int(basis.rank.min()), "max": int(basis.rank.max())},
        "residual": {
            "median": float(basis.residual.median()),
            "max": float(basis.residual.max()),
        },
        "angle_bound": {
            "median": float(basis.angle_bound.median()),
            "max": float(basis.angle_bound.max()),
        },
        "products": {
            "total": int(products.sum()),
            "per_direction": float(products.mean()) / basis.s.shape[1],
        },
        "seconds": bases.seconds,
        "reused": bases.reused,
    }
