"""Geodesic shooting: steps along a direction that is carried on after each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from typing_extensions import Unpack

# Directions stand above this room: they are reached by the front door, when they are asked for.
import pullback
from pullback._numbers import whole
from pullback.geometry.bases import LocalBasis
from pullback.geometry.options import StepOptions, with_step_options
from pullback.geometry.transport.checks import nothing
from pullback.geometry.transport.following import Following
from pullback.geometry.transport.tangents import in_frame, units
from pullback.models import Condition, LatentModel, TapName


@dataclass(frozen=True, eq=False)
class Shot:
    """Where B samples came to along a direction that was carried on: see `shoot`.

    Attributes:
        points: latents `[steps + 1, B, *x_shape]`, the first those at the start.
        retained: `[steps, B]`, float64, from 0 to 1: of the unit direction, the norm of its part
            in the span of the first local basis; then of the unit tangent, of its part in the next
            tangent space. Zeros after a sample has stopped.
        u: unit tangents in the features of the last steps that were made, `[B, *h_shape]`, each
            of the tangent space where its step began; zeros where none was made.
        stopped_at: int64 `[B]`: steps that each sample made; `steps` where it was never stopped.
    """

    points: torch.Tensor
    retained: torch.Tensor
    u: torch.Tensor
    stopped_at: torch.Tensor


@with_step_options
def shoot(
    model: LatentModel,
    x: torch.Tensor,
    t: int | torch.Tensor,
    direction: torch.Tensor | pullback.Direction,
    *,
    length: float | torch.Tensor,
    steps: int,
    rank: int = 10,
    tap: TapName | None = None,
    cond: Condition | None = None,
    pool: str | None = None,
    least: float = 0.0,
    quality: str = "standard",
    progress: Callable[[int, int], None] | None = None,
    **options: Unpack[StepOptions],
) -> Shot:
    """Geodesic shooting: steps along a direction, each followed by parallel transport.

    At every step the local bases are found at the moved latents, started from those before. The
    unit tangent over the features is projected on the new tangent space and made a unit vector
    again, and the latents go length / steps along the direction with the same coordinates in the
    local basis (`back="isometric"` of `transport`). At the start it is the part of the direction
    in the span of the first basis. A sample whose tangent keeps less than `least` has left what the
    direction was about: it stops and stays where it is.

    Args:
        model: the model.
        x: latents at t, `[B, *x_shape]`.
        t: their timestep in training units: one for all, or int64 `[B]`; it stays.
        direction: in the latents, `[B, *x_shape]` or `[*x_shape]` of any length, or a
            `pullback.Direction` in "x", whose unit does not matter.
        length: of the whole way, in the units of the latents: a number, or `[B]`; below 0 the other
            way.
        steps: how many.
        rank: of the local bases.
        tap: where their features are read; the middle block by default.
        cond: the network's further arguments, batch first; None is the null condition.
        pool: "space" for the mean of the features over space.
        least: what a step must retain, from 0 to below 1; 0 never stops.
        quality: of the local bases: "draft", "standard" or "tight".
        progress: called after each step with the number of those done and of all.
        **options: of the local bases: see `pullback.geometry.StepOptions`.

    Returns:
        A `Shot`.

    Raises:
        TypeError: an argument of another type, or an option that does not exist.
        ValueError: one that does not fit the model; the direction is zero or not finite; or,
            up to rounding, nothing of it lies in a basis, and `least` does not stop it.

    Warns:
        UserWarning: a basis did not converge.

    Cost: local bases a step, the later ones at less than the first, since they are close by.
    Source: Park et al. 2023, arXiv:2302.12469.
    """
    following = Following.of(
        "shoot", model, x, t, rank=rank, tap=tap, cond=cond, pool=pool, quality=quality,
        options=options,
    )  # fmt: skip
    steps = whole("steps", steps, 1)
    if isinstance(least, bool) or not 0 <= float(least) < 1:
        raise ValueError(f"Expected least from 0 to below 1, got {least!r}.")
    vectors = _directions(direction, x, following)
    lengths = _lengths(length, x)
    found = follow(following, x, vectors, lengths, steps, least=float(least), progress=progress)
    following.warn()
    return found


def follow(
    following: Following,
    x: torch.Tensor,
    direction: torch.Tensor,
    length: torch.Tensor,
    steps: int,
    *,
    least: float = 0.0,
    progress: Callable[[int, int], None] | None = None,
    visit: Callable[[LocalBasis], None] | None = None,
) -> Shot:
    """Shooting where everything has been checked before.

    Args:
        following: how bases are found.
        x: latents `[B, *x_shape]`.
        direction: unit rows `[B, n]`, float64.
        length: `[B]`, float64.
        steps: how many.
        least: as for `shoot`.
        progress: as for `shoot`.
        visit: called with the bases of the samples that have not stopped, before each step.
    """
    points, retained = [x.detach()], x.new_zeros(steps, len(x), dtype=torch.float64)
    stopped = torch.full((len(x),), steps, device=x.device)
    on = torch.arange(len(x), device=x.device)
    tangents: torch.Tensor | None = None
    u = init = None
    for step in range(steps):
        at = points[-1].clone()
        if len(on):
            basis = following.at(at[on], on, init)
            if visit is not None:
                visit(basis)
            seen, rows = (direction[on], basis.v) if u is None else (u, basis.u)
            kept = _kept(rows, basis.rank, seen)
            share = kept.norm(dim=1)
            retained[step, on] = share.clamp(max=1)
            going = share >= least
            _check_carried(share[going], rows.dtype, following.rank)
            stopped[on[~going]] = step
            on, kept, basis = on[going], kept[going] / share[going, None], basis[going]
            u = torch.einsum("bk,bkm->bm", kept, basis.u.double().flatten(2))
            v = torch.einsum("bk,bkn->bn", kept, basis.v.double().flatten(2))
            v = v / v.norm(dim=1, keepdim=True)
            u = u / u.norm(dim=1, keepdim=True)
            move = (v * (length[on] / steps)[:, None]).reshape(at[on].shape)
            at[on] = (at[on].double() + move).to(x.dtype)
            if tangents is None:
                tangents = basis.u.new_zeros(len(x), *basis.u.shape[2:])
            tangents[on] = u.reshape(-1, *basis.u.shape[2:]).to(tangents.dtype)
            init = basis.v
        points.append(at)
        if progress is not None:
            progress(step + 1, steps)
    assert tangents is not None
    return Shot(torch.stack(points), retained, tangents, stopped)


def _kept(rows: torch.Tensor, ranks: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
    """Coordinates of each sample's vector `[A, N]` in its rows `[A, k, *shape]`: `[A, k]`."""
    kept = torch.zeros(rows.shape[:2], dtype=torch.float64, device=rows.device)
    for sample, rank in enumerate(ranks.tolist()):
        if rank:
            kept[sample, :rank] = in_frame(rows[sample, :rank], vectors[sample : sample + 1])[0]
    return kept


def _check_carried(share: torch.Tensor, dtype: torch.dtype, rank: int) -> None:
    if bool((share <= nothing(dtype)).any()):
        raise ValueError(
            "The direction has no part in the local basis at the latents, so that it cannot be "
            f"carried on. Expected a higher rank than {rank}, or another direction; of an edit, "
            "another way than Shooting."
        )


def _directions(
    direction: torch.Tensor | pullback.Direction, x: torch.Tensor, following: Following
) -> torch.Tensor:
    """Unit rows `[B, n]` in float64."""
    if isinstance(direction, pullback.Direction):
        if direction.space != "x":
            raise ValueError(
                f'Expected a direction in the latents ("x") to shoot along, got one in '
                f'"{direction.space}". transport() gives the v of a tangent in the features.'
            )
        for t in sorted(set(following.t.tolist())):
            direction.check_fits(following.model, t)
        direction = direction.vector
    shape = list(x.shape)
    if isinstance(direction, torch.Tensor) and list(direction.shape) not in (shape, shape[1:]):
        raise ValueError(
            f"Expected directions of shape {shape}, or {shape[1:]} for all samples, got "
            f"{list(direction.shape)}."
        )
    if isinstance(direction, torch.Tensor) and direction.dim() < x.dim():
        direction = direction.expand_as(x)
    rows = units(direction, "the direction")
    return rows.to(x.device)


def _lengths(length: float | torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Lengths `[B]` in float64."""
    found = torch.as_tensor(length, dtype=torch.float64, device=x.device)
    if found.dim() > 1 or (found.dim() == 1 and len(found) != len(x)):
        raise ValueError(
            f"Expected length as a number or [{len(x)}], got shape {list(found.shape)}."
        )
    if not bool(torch.isfinite(found).all()):
        raise ValueError(f"Expected finite lengths, got {found.tolist()}.")
    return found.expand(len(x))
