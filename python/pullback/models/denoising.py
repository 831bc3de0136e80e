"""From latents at one timestep to a lower one, or to the data."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from typing_extensions import Unpack

from pullback.models.model import LatentModel, check_model
from pullback.models.walking import Walker, WalkOptions, with_walk_options


@with_walk_options
def denoise(
    model: LatentModel,
    x: torch.Tensor,
    start: int,
    stop: int = -1,
    **options: Unpack[WalkOptions],
) -> torch.Tensor:
    """Take latents from one timestep down to a lower one.

    By default deterministically, by DDIM's steps; for flow models, whose probability flow it
    follows too, that is Euler's method.

    Args:
        model: the model that predicts.
        x: latents at `start`, `[B, *x_shape]`.
        start: their timestep, in the scheduler's training units.
        stop: the timestep to arrive at in training units, a whole number of strides below
            `start`; −1, the default, is the clean image (for flow models the same as 0).
        **options: condition, guidance, solver and steps: see `pullback.models.WalkOptions`.

    Returns:
        Latents at `stop`, `[B, *x_shape]`.

    Raises:
        TypeError: the model is none, x is no tensor, or an option does not exist.
        ValueError: a timestep lies outside the schedule or off the stride, x has the wrong shape or
            is not finite, or an option is not what the model takes.

    Cost: one forward pass of the batch per stride between start and stop, two with guidance.
    Source: Song et al. 2020, arXiv:2010.02502; DDPM: Ho et al. 2020, arXiv:2006.11239;
    DPM-Solver++: Lu et al. 2022, arXiv:2211.01095, by the coefficients of diffusers.
    """
    walker = _walker(model, x, options)
    return walker.down(x, walker.grid(model.schedule.check_timestep(start), stop))


@with_walk_options
def states(
    model: LatentModel,
    x: torch.Tensor,
    start: int,
    times: Sequence[int],
    **options: Unpack[WalkOptions],
) -> dict[int, torch.Tensor]:
    """Latents at several timesteps of one walk down.

    Args:
        model: the model that predicts.
        x: latents at `start`, `[B, *x_shape]`.
        start: their timestep, in the scheduler's training units.
        times: timesteps of the walk in training units, −1 for the data; the walk ends at the last.
        **options: as for `denoise`.

    Returns:
        Latents `[B, *x_shape]` by timestep, in the order of the walk.

    Raises:
        As `denoise`; ValueError: a timestep that the walk does not come by.

    Cost: as `denoise` down to the last.
    """
    walker = _walker(model, x, options)
    grid = walker.grid(model.schedule.check_timestep(start))
    missing = sorted(set(times) - set(grid))
    if missing or not len(times):
        raise ValueError(
            f"Expected timesteps of the walk, {grid}, got {list(times)}. Choose others, or other "
            "steps."
        )
    found: dict[int, torch.Tensor] = {}

    def visit(t: float, latents: torch.Tensor) -> None:
        if t in times:
            found[int(t)] = latents

    walker.down(x, grid[: grid.index(min(times)) + 1], visit=visit)
    return found


def _walker(model: LatentModel, x: torch.Tensor, options: WalkOptions) -> Walker:
    check_model(model)
    model.check_latents(x)
    return Walker.of(model, len(x), options)
