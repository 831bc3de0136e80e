"""Deterministic sampling between timesteps: DDIM, and its counterpart for flow models."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from diffusers import DDIMScheduler

if TYPE_CHECKING:
    from pullback.models.model import Condition, LatentModel


def stride(model: LatentModel, steps: int) -> int:
    """How many timesteps one of `steps` DDIM steps over the whole schedule goes down.

    Raises:
        ValueError: steps is not between 1 and the number of training timesteps.
    """
    total = model.num_timesteps
    if not 1 <= steps <= total:
        raise ValueError(f"Expected steps between 1 and {total}, got {steps}.")
    return total // steps


@torch.no_grad()
def ddim(
    model: LatentModel,
    x: torch.Tensor,
    start: int,
    stop: int = -1,
    *,
    cond: Condition | None = None,
    steps: int = 50,
) -> torch.Tensor:
    """Take latents from one timestep down to a lower one, deterministically (η = 0).

    For flow models, whose probability flow it follows too, that is a step of Euler's method.

    Args:
        model: the model that predicts.
        x: latents at `start`, `[B, C, H, W]`.
        start: their timestep, in the scheduler's training units.
        stop: the timestep to arrive at, a whole number of strides below `start`; −1, the
            default, is the clean image (for flow models the same as 0).
        cond: the network's further arguments, batch first; None is the null condition.
        steps: steps that the whole schedule would take; they set the stride.

    Returns:
        Latents at `stop`, `[B, C, H, W]`.

    Raises:
        ValueError: a timestep lies outside the schedule or off the stride, or x has the wrong
            shape or is not finite.

    Cost: one forward pass of the batch per stride between start and stop.
    Source: Song et al. 2020, arXiv:2010.02502.
    """
    start = model.check_timestep(start)
    model.check_latents(x)
    down = stride(model, steps)
    if stop != -1 and (not 0 <= stop <= start or (start - stop) % down):
        raise ValueError(
            f"Expected stop = -1, or a whole number of strides of {down} below start = {start}, "
            f"got {stop}. Choose another number of steps (now {steps}) or another start."
        )
    cond = model.condition(cond, len(x))
    if model.prediction_type == "flow":
        for t in range(start, max(stop, 0), -down):
            x = x - min(down, t) / model.num_timesteps * model.predict(x, t, cond)
        return x
    scheduler = DDIMScheduler.from_config(model.scheduler.config)
    scheduler.set_timesteps(steps)
    for t in range(start, stop, -down):
        x = scheduler.step(model.predict(x, t, cond), t, x).prev_sample
    return x
