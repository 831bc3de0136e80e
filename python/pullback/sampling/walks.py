"""Walks down the timesteps, from noise to data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Protocol

import torch
from diffusers import DPMSolverMultistepScheduler

from pullback.sampling.noise import FreshNoise
from pullback.sampling.schedule import Schedule, level
from pullback.sampling.steps import learned_spread, step

#: Solvers that take latents down: see `walk`.
SOLVERS = ("ddim", "ddpm", "dpm++")

#: Called with a timestep and the latents `[B, *x_shape]` there.
Visit = Callable[[float, torch.Tensor], None]


class Predict(Protocol):
    """A network's raw prediction `[B, *x_shape]`, or more channels, for latents at a timestep.

    It may return a pair: the prediction, and the one to take the noise from.
    """

    def __call__(self, x: torch.Tensor, t: Any, /) -> Any:
        """The prediction for latents x `[B, *x_shape]` at t in training units, `[B, ...]`."""


@torch.no_grad()
def walk(
    schedule: Schedule,
    predict: Predict,
    x: torch.Tensor,
    grid: Sequence[float],
    *,
    solver: str = "ddim",
    eta: float | Callable[[float], float] = 0.0,
    noise: FreshNoise | None = None,
    residuals: Mapping[float, torch.Tensor] | None = None,
    clip: bool = True,
    visit: Visit | None = None,
) -> torch.Tensor:
    """Take latents down a grid of timesteps.

    Args:
        schedule: the schedule that the network was trained on.
        predict: the network.
        x: latents at the first timestep of the grid, `[B, *x_shape]`.
        grid: timesteps in training units, downwards; −1 is the data.
        solver: "ddim" (for flows Euler's method), "ddpm" (the ancestral sampler, with the
            scheduler's own kind of variance) or "dpm++" (DPM-Solver++ of second order).
        eta: of DDIM's steps, from 0 to 1: one for all, or a function of the timestep that a step
            starts from. The other solvers take none.
        noise: where the noise of stochastic steps comes from.
        residuals: in its place, what is added at each timestep that is arrived at, `[B, *x_shape]`;
            of DDIM's steps only.
        clip: whether x̂_0 is clipped where the scheduler's own steps clip it.
        visit: called at every timestep of the grid with the latents there.

    Returns:
        Latents at the last timestep, `[B, *x_shape]`.

    Raises:
        ValueError: there is no such solver, or none for this schedule; it does not take eta,
            residuals or a pair of predictions; or steps need noise and have none.

    Cost: one prediction a step.
    """
    _check_solver(schedule, solver)
    if solver != "ddim":
        _check_deterministic(solver, eta, residuals)
    if solver == "dpm++":
        return _multistep(schedule, predict, x, grid, clip, visit)
    if visit is not None:
        visit(grid[0], x)
    for t, to in pairwise(grid):
        output, undisturbed = _pair(predict(x, t))
        channels = x.shape[1]
        share = 1.0 if solver == "ddpm" else eta(t) if callable(eta) else eta
        if not 0 <= share <= 1:
            raise ValueError(f"Expected eta from 0 to 1, got {share} at t = {t}.")
        spread, fresh = None, None
        if share and residuals is None and level(schedule, to).sigma:
            if noise is None:
                raise ValueError(
                    "Steps with eta above 0 add noise, and there is none. Expected noise=, with a "
                    "seed for each sample, or the residuals of an inversion."
                )
            fresh = noise.at(to, x)
            if solver == "ddpm":
                spread = learned_spread(schedule, output, channels, t, to)
        x = step(
            schedule, output[:, :channels], x, t, to,
            eta=share, noise=fresh, spread=spread, clip=clip,
            undisturbed=None if undisturbed is None else undisturbed[:, :channels],
        )  # fmt: skip
        if residuals is not None:
            x = x + residuals[to].to(x)
        if visit is not None:
            visit(to, x)
    return x


def _pair(predicted: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
    return predicted if isinstance(predicted, tuple) else (predicted, None)


def _check_solver(schedule: Schedule, solver: str) -> None:
    if solver not in SOLVERS:
        raise ValueError(f"Expected a solver of {', '.join(SOLVERS)}, got {solver!r}.")
    vp = schedule.prediction_type != "flow" and not schedule.continuous
    if solver != "ddim" and not vp:
        raise ValueError(
            f"The solver {solver!r} is for schedules with ᾱ, and that of "
            f'{type(schedule.scheduler).__name__} is another. Expected solver="ddim".'
        )


def _check_deterministic(
    solver: str,
    eta: float | Callable[[float], float],
    residuals: Mapping[float, torch.Tensor] | None,
) -> None:
    """What only DDIM's steps have is refused, where it would be without effect."""
    why = "adds noise of its own amount" if solver == "ddpm" else "adds no noise"
    if callable(eta) or eta:
        raise ValueError(
            f"Expected no eta, and no boost of an edit, with the solver {solver!r}, which {why}; "
            f'got eta = {"a function" if callable(eta) else eta}. Use solver="ddim".'
        )
    if residuals is not None:
        raise ValueError(
            f"Expected no residuals of an inversion with the solver {solver!r}, whose steps they "
            'do not belong to. Use solver="ddim".'
        )


def _multistep(
    schedule: Schedule,
    predict: Predict,
    x: torch.Tensor,
    grid: Sequence[float],
    clip: bool,
    visit: Visit | None,
) -> torch.Tensor:
    """A walk of diffusers' own DPM-Solver++ of second order, with the model's ᾱ."""
    config = schedule.scheduler.config
    names = ("thresholding", "dynamic_thresholding_ratio", "sample_max_value") if clip else ()
    to_data = grid[-1] < 0
    with torch.device("cpu"):
        solver = DPMSolverMultistepScheduler(
            schedule.num_timesteps, prediction_type=schedule.prediction_type,
            # A walk that ends on the way is the beginning of one to the data.
            lower_order_final=to_data, final_sigmas_type="zero" if to_data else "sigma_min",
            **{name: config[name] for name in names if name in config},
        )  # fmt: skip
        # Pure noise has no σ; that is the least ᾱ which diffusers takes in its place.
        solver.alphas_cumprod = schedule.alphas_cumprod.cpu().clamp_min(2**-24)
        points = [int(t) for t in grid if t >= 0]
        # The noise at the end of the grid is at a timestep of its own, unless it is the data.
        solver.set_timesteps(timesteps=points if to_data else points[:-1])
        if not to_data:
            share = solver.alphas_cumprod[points[-1]]
            solver.sigmas[-1] = ((1 - share) / share) ** 0.5
    if visit is not None:
        visit(grid[0], x)
    for t, to in pairwise(grid):
        output, undisturbed = _pair(predict(x, t))
        if undisturbed is not None:
            raise ValueError(
                'Steps of the solver "dpm++" take one prediction, and an asymmetric edit has two. '
                'Use solver="ddim", or symmetric injection.'
            )
        x = solver.step(output[:, : x.shape[1]], int(t), x).prev_sample
        if visit is not None:
            visit(to, x)
    return x
