"""Moving latents at one timestep along displacements."""

from __future__ import annotations

import torch

from pullback import geometry
from pullback.editing.ways import Addition, Injection, Shooting, Way
from pullback.models import LatentModel, Walker
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
    length = displacement.flatten(1).norm(dim=1)
    at, u = x, None
    for _ in range(way.steps):
        basis = _basis(walker.model, at, t, walker, way)
        v_rows, u_rows = basis.v.flatten(2), basis.u.flatten(2)
        if u is None:  # the direction's own image in the features, within the basis
            along = torch.einsum("brn,bn->br", v_rows, displacement.to(v_rows).flatten(1))
        else:
            along = torch.einsum("brm,bm->br", u_rows, u)
        lost = along.norm(dim=1) == 0
        along = along / along.norm(dim=1, keepdim=True).clamp_min(torch.finfo(along.dtype).tiny)
        if bool((lost & (length > 0)).any()):
            raise ValueError(
                "The direction has no part in the local basis at the latents, so that it cannot be "
                f"carried on. Expected a higher rank than {way.rank}, or another way than Shooting."
            )
        u = torch.einsum("br,brm->bm", along, u_rows)
        step = torch.einsum("br,brn->bn", along, v_rows) * (length / way.steps)[:, None]
        at = at + step.reshape(x.shape).to(x.dtype)
    return at


def _basis(
    model: LatentModel, x: torch.Tensor, t: float, walker: Walker, way: Shooting
) -> geometry.LocalBasis:
    if t != int(t):
        raise ValueError(f"Expected a whole timestep for local bases, got {t}.")
    cond = walker.condition or None
    return geometry.local_basis(model, x, int(t), way.rank, way.tap, cond, quality=way.quality)


def default_way(space: str) -> Way:
    """The way of a direction for which none is given."""
    return Injection() if space == "h" else Addition()
