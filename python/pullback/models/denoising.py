"""From latents at one timestep to another, with a model."""

from __future__ import annotations

import torch

from pullback import sampling
from pullback.models.conditions import Condition
from pullback.models.model import LatentModel, check_model


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
        x: latents at `start`, `[B, *x_shape]`.
        start: their timestep, in the scheduler's training units.
        stop: the timestep to arrive at in training units, a whole number of strides below
            `start`; −1, the default, is the clean image (for flow models the same as 0).
        cond: the network's further arguments, batch first; None is the null condition.
        steps: steps that the whole schedule would take; they set the stride.

    Returns:
        Latents at `stop`, `[B, *x_shape]`.

    Raises:
        TypeError: the model is none, or x is no tensor.
        ValueError: a timestep lies outside the schedule or off the stride, or x has the wrong
            shape or is not finite.

    Cost: one forward pass of the batch per stride between start and stop.
    Source: Song et al. 2020, arXiv:2010.02502.
    """
    check_model(model)
    start = model.schedule.check_timestep(start)
    model.check_latents(x)
    condition = model.conditions.of(cond, len(x))
    return sampling.denoise(
        model.schedule,
        lambda latents, t: model.predict(latents, t, condition),
        x, start, stop, steps=steps,
    )  # fmt: skip
