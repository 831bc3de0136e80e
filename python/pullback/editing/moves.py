"""Moving latents at one timestep along displacements."""

from __future__ import annotations

import torch

from pullback.editing.ways import Addition, Injection, Shooting, Way
from pullback.geometry.transport import shoot
from pullback.models import Walker
from pullback.sampling import clean_of, level, noise_of


@torch.no_grad()
def moved(
    walker: Walker, x: torch.Tensor, t: float, displacement: torch.Tensor, way: Way
) -> torch.Tensor:
    """Latents moved along displacements.

    Args:
        walker: of the batch, which predicts with its condition and guidance.
        x: latents `[B, *x_shape]`.
        t: their timestep in training units.
        displacement: `[B, *x_shape]`.
        way: how.

    Returns:
        `[B, *x_shape]`.

    Cost: none for plain addition; two predictions a repetition with guidance; a local basis a step
    of shooting; two predictions more with `normalise`.
    """
    if isinstance(way, Injection):
        raise ValueError(
            "Injection is for directions in features, and this one lies in the latents. Expected "
            "Addition, Guidance or Shooting."
        )
    if isinstance(way, Shooting):
        return _shot(walker, x, t, displacement, way)
    if isinstance(way, Addition):
        found = x + displacement
    else:
        found = x
        for _ in range(way.repeats):
            ahead = _noise(walker, found + displacement, t)
            found = found + way.scale * (ahead - _noise(walker, found, t))
    if way.normalise is not None:
        found = _normalised(walker, x, found, t, way.normalise)
    return found


def _noise(walker: Walker, x: torch.Tensor, t: float) -> torch.Tensor:
    schedule = walker.model.schedule
    prediction = walker.predict(x, t)[:, : x.shape[1]]
    here = level(schedule, t)
    return noise_of(schedule.prediction_type, prediction, x, *here, schedule.deviation)


def _clean(walker: Walker, x: torch.Tensor, t: float) -> torch.Tensor:
    schedule = walker.model.schedule
    prediction = walker.predict(x, t)[:, : x.shape[1]]
    here = level(schedule, t)
    return clean_of(schedule.prediction_type, prediction, x, *here, schedule.deviation)


def _normalised(
    walker: Walker, before: torch.Tensor, x: torch.Tensor, t: float, kappa: float
) -> torch.Tensor:
    """Latents whose denoised estimate has the mean and deviation of the one before.

    The change of the estimate is brought back to the latents by the closure ∇ε ≈ κ I.
    """
    clean, moved = _clean(walker, before, t), _clean(walker, x, t)
    axes = tuple(range(1, clean.dim()))
    spread = moved.std(axes, keepdim=True).clamp_min(torch.finfo(moved.dtype).tiny)
    level_of = moved.mean(axes, keepdim=True)
    wanted = (moved - level_of) / spread * clean.std(axes, keepdim=True)
    wanted = wanted + clean.mean(axes, keepdim=True)
    here = level(walker.model.schedule, t)
    return before + here.signal / (1 - kappa * here.sigma) * (wanted - clean)


def _shot(
    walker: Walker, x: torch.Tensor, t: float, displacement: torch.Tensor, way: Shooting
) -> torch.Tensor:
    """Latents after steps along a direction that is carried from tangent space to tangent space."""
    if t != int(t):
        raise ValueError(f"Expected a whole timestep for local bases, got {t}.")
    length = displacement.flatten(1).norm(dim=1)
    rows = torch.nonzero(length > 0).flatten()
    if not len(rows):
        return x
    shot = shoot(
        walker.model, x[rows], int(t), displacement[rows], length=length[rows], steps=way.steps,
        rank=way.rank, tap=way.tap, cond=walker.rows(rows.tolist()).condition or None,
        quality=way.quality,
    )  # fmt: skip
    found = x.clone()
    found[rows] = shot.points[-1]
    return found


def default_way(space: str) -> Way:
    """The way of a direction for which none is given."""
    return Injection() if space == "h" else Addition()
