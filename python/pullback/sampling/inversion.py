"""Ways up the timesteps: from data to the noise that leads back to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch

from pullback.sampling.noise import FreshNoise
from pullback.sampling.predictions import noise_of
from pullback.sampling.schedule import Level, Schedule, level
from pullback.sampling.steps import fresh_noise, posterior_deviation, step
from pullback.sampling.walks import Predict, Visit

#: How noisy latents are drawn around data: see `scatter`.
SCHEMES = ("independent", "chain", "posterior")


@torch.no_grad()
def ascend(
    schedule: Schedule,
    predict: Predict,
    x: torch.Tensor,
    grid: Sequence[float],
    *,
    corrections: int = 0,
    visit: Visit | None = None,
) -> torch.Tensor:
    """Take data up the timesteps of a grid, so that DDIM's steps lead back to them.

    Plainly, a step takes the prediction at the latents it starts from. A correction takes it at
    those it arrived at, and so comes nearer to the latents from which the step down leads back.

    Args:
        schedule: the schedule that the network was trained on.
        predict: the network.
        x: data, or latents at the last timestep of the grid, `[B, *x_shape]`.
        grid: timesteps in training units, downwards, as a walk down takes them.
        corrections: fixed-point iterations a step.
        visit: called at every timestep of the grid with the latents there.

    Returns:
        Latents at the first timestep of the grid, `[B, *x_shape]`.

    Cost: 1 + corrections predictions a step.
    """
    if visit is not None:
        visit(grid[-1], x)
    for t, to in pairwise(reversed(grid)):
        if t >= 0 or schedule.prediction_type == "flow":
            prediction = predict(x, max(t, 0))[:, : x.shape[1]]
            guess = step(schedule, prediction, x, t, to, clip=False)
        else:  # the data have no timestep that the network knows: it is told the one arrived at
            guess = level(schedule, to).signal * x
            guess = _before(schedule, predict(guess, to), guess, x, to, t)
        for _ in range(corrections):
            guess = _before(schedule, predict(guess, to), guess, x, to, t)
        x = guess
        if visit is not None:
            visit(to, x)
    return x


def _before(
    schedule: Schedule,
    prediction: torch.Tensor,
    guess: torch.Tensor,
    x: torch.Tensor,
    t: float,
    to: float,
) -> torch.Tensor:
    """The latents at t from which the step with the prediction at a guess arrives at x, at `to`.

    A step without clipping is a multiple of the latents and one of the prediction.
    """
    prediction = prediction[:, : x.shape[1]]
    if schedule.prediction_type == "sample":
        # Steps to x̂₀ forget the latents, and iterations with it fixed diverge; with ε̂ they do not.
        here, there = level(schedule, t), level(schedule, to)
        away = noise_of("sample", prediction, guess, *here)
        return here.signal / there.signal * (x - there.sigma * away) + here.sigma * away
    one = torch.ones((), dtype=torch.float64, device="cpu")
    of_latents = step(schedule, 0 * one, one, t, to, clip=False)
    of_prediction = step(schedule, one, 0 * one, t, to, clip=False)
    return (x - float(of_prediction) * prediction) / float(of_latents)


@torch.no_grad()
def scatter(
    schedule: Schedule,
    x: torch.Tensor,
    grid: Sequence[float],
    noise: FreshNoise,
    *,
    scheme: str = "independent",
) -> dict[float, torch.Tensor]:
    """Noisy latents at every timestep of a grid, drawn around data.

    Args:
        schedule: the schedule that the network was trained on.
        x: data, `[B, *x_shape]`.
        grid: timesteps in training units, downwards, with −1, the data, as the last.
        noise: where the noise comes from.
        scheme: "independent" noise at each, "chain" for that of the forward process, whose noise
            grows from one to the next, or "posterior" for that of the reverse one, given the data.

    Returns:
        Latents `[B, *x_shape]` by timestep.

    Raises:
        ValueError: there is no such scheme.
    """
    if scheme not in SCHEMES:
        raise ValueError(f"Expected a scheme of {', '.join(SCHEMES)}, got {scheme!r}.")
    states = {grid[-1]: x}
    top = level(schedule, grid[0])
    start = top.signal * x + top.sigma * noise.at(grid[0], x)
    if scheme == "independent":
        for t in grid[:-1]:
            here = level(schedule, t)
            states[t] = here.signal * x + here.sigma * noise.at(t, x)
    elif scheme == "chain":
        below, at = Level(1.0, 0.0), x
        for t in reversed(grid[:-1]):
            here = level(schedule, t)
            kept, fresh = here.signal / below.signal, fresh_noise(here, below)
            below, at = here, kept * at + fresh * noise.at(t, x)
            states[t] = at
    else:
        states[grid[0]] = at = start
        for t, to in pairwise(grid[:-1]):
            here, there = level(schedule, t), level(schedule, to)
            v = posterior_deviation(here, there)
            away = (at - here.signal * x) / here.sigma
            rest = max(there.sigma**2 - v**2, 0) ** 0.5
            at = there.signal * x + rest * away + v * noise.at(to, x)
            states[to] = at
    return states


@torch.no_grad()
def residuals(
    schedule: Schedule,
    predict: Predict,
    states: Mapping[float, torch.Tensor],
    grid: Sequence[float],
    *,
    eta: float = 1.0,
    clip: bool = True,
) -> dict[float, torch.Tensor]:
    """What has to be added to each step of a walk so that it goes through given latents.

    Args:
        schedule: the schedule that the network was trained on.
        predict: the network.
        states: latents `[B, *x_shape]` at every timestep of the grid, as `scatter` draws them.
        grid: timesteps in training units, downwards.
        eta: of the steps.
        clip: whether x̂_0 is clipped where the scheduler's own steps clip it.

    Returns:
        `[B, *x_shape]` for each timestep that a step arrives at.

    Cost: one prediction a step.
    Source: Huberman-Spiegelglas et al. 2023, arXiv:2304.06140; Haas et al. 2023, arXiv:2303.11073.
    """
    found = {}
    for t, to in pairwise(grid):
        x = states[t]
        mean = step(schedule, predict(x, t)[:, : x.shape[1]], x, t, to, eta=eta, clip=clip)
        found[to] = states[to] - mean
    return found
