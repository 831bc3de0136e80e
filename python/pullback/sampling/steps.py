"""One step between two timesteps: DDIM with any share of fresh noise, and DDPM."""

from __future__ import annotations

import math

import torch

from pullback.sampling.clipping import clipping
from pullback.sampling.predictions import clean_of, noise_of
from pullback.sampling.schedule import Level, Schedule, level


def step(
    schedule: Schedule,
    prediction: torch.Tensor,
    x: torch.Tensor,
    t: float,
    to: float,
    *,
    eta: float = 0.0,
    noise: torch.Tensor | None = None,
    spread: torch.Tensor | float | None = None,
    undisturbed: torch.Tensor | None = None,
    clip: bool = True,
) -> torch.Tensor:
    """Latents at another timestep, by the network's prediction.

    x_to = signal x̂_0 + √(sigma² − v²) ε̂ + v z, with v = eta times the deviation of the true
    posterior. It is a step of DDIM; for flows and for schedules in σ, one of Euler's method; with
    eta = 1, a step of DDPM.

    Args:
        schedule: the schedule that the network was trained on.
        prediction: the network's raw prediction at t, `[B, *x_shape]`.
        x: latents at t, `[B, *x_shape]`.
        t: their timestep in training units.
        to: the timestep to arrive at, in training units; −1 is the data.
        eta: from 0, deterministic, to 1.
        noise: z, `[B, *x_shape]`; none of it is added where it is None.
        spread: the deviation of the noise that is added, a number or `[B, *x_shape]`, where that
            is another than v.
        undisturbed: another prediction to take the noise ε̂ from, `[B, *x_shape]`: that of the
            network without an edit (Kwon et al. 2023, arXiv:2210.10960).
        clip: whether x̂_0 is clipped where the scheduler's own steps clip it.

    Returns:
        Latents at `to`, `[B, *x_shape]`.

    Source: Song et al. 2020, arXiv:2010.02502.
    """
    here, there = level(schedule, t), level(schedule, to)
    kind, deviation = schedule.prediction_type, schedule.deviation
    clean = clean_of(kind, prediction, x, *here, deviation)
    source = prediction if undisturbed is None else undisturbed
    away = noise_of(kind, source, x, *here, deviation)
    clips = clipping(schedule) if clip else None
    if clips is not None:
        clean = clips.clip(clean)
        # The mean of DDPM is one of the clipped data and of x.
        if (clips.noise_too or eta == 1) and undisturbed is None:
            away = (x - here.signal * clean) / here.sigma
    if not eta:
        return there.signal * clean + there.sigma * away
    v = posterior_deviation(here, there) * eta
    mean = there.signal * clean + max(there.sigma**2 - v**2, 0) ** 0.5 * away
    return mean if noise is None else mean + (v if spread is None else spread) * noise


def posterior_deviation(here: Level, there: Level) -> float:
    """The deviation of x_s given x_t and the data, from noisier to less noisy."""
    return there.sigma / here.sigma * fresh_noise(here, there)


def fresh_noise(here: Level, there: Level) -> float:
    """The deviation of x_t given x_s, to noisier from less noisy."""
    return float(max(here.sigma**2 - (here.signal / there.signal * there.sigma) ** 2, 0) ** 0.5)


def learned_spread(
    schedule: Schedule, output: torch.Tensor, channels: int, t: float, to: float
) -> torch.Tensor | float | None:
    """The deviation of DDPM's noise, where it is not the posterior's.

    Args:
        schedule: the schedule; its scheduler's `variance_type` says which it is.
        output: what the network returns at t, `[B, C, ...]`, C more than `channels` where the
            variance is learned.
        channels: those of the prediction.
        t: in training units.
        to: in training units.

    Returns:
        A number or `[B, channels, ...]`; None for the posterior's.

    Raises:
        ValueError: the kind of variance is unknown, or the network has no channels for it.

    Source: Nichol and Dhariwal 2021, arXiv:2102.09672.
    """
    kind = schedule.scheduler.config.get("variance_type") or "fixed_small"
    if kind in ("fixed_small", "fixed_small_log"):
        return None
    here, there = level(schedule, t), level(schedule, to)
    most = 1 - (here.signal / there.signal) ** 2
    if kind == "fixed_large":
        return float(most**0.5)
    learned = output[:, channels:]
    if kind not in ("learned", "learned_range") or learned.shape[1] != channels:
        raise ValueError(
            f"Expected a scheduler with variance_type fixed_small, fixed_large, learned or "
            f"learned_range, and for the last two a network that returns {2 * channels} channels, "
            f'got {kind!r} and {output.shape[1]} channels. Use solver="ddim" with eta=1.'
        )
    if kind == "learned":
        return learned.sqrt()
    least = max(posterior_deviation(here, there) ** 2, 1e-20)
    share = (learned + 1) / 2
    return torch.exp((share * math.log(most) + (1 - share) * math.log(least)) / 2)
