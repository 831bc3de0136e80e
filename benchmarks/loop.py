"""The baseline of sweeps: every edit denoised by itself, as the published code does it.

Park et al. 2023 (arXiv:2307.12868) edit one sample along one direction at one strength, and take
the result from t to the image before they turn to the next. This is our own implementation of that
order, with a batch of one and nothing else against it: no copies to the host, no pictures, and
coefficients of the steps computed once, before the loop. The published grid of timesteps, whose
rounding changes the images, is left out, so that both methods make the same ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import nn


@torch.no_grad()
def edited_one_by_one(
    network: nn.Module,
    scheduler: Any,
    condition: Mapping[str, torch.Tensor],
    x: torch.Tensor,
    v: torch.Tensor,
    strengths: Sequence[float],
    t: int,
    *,
    steps: int = 50,
) -> torch.Tensor:
    """Images of x + strength v, by DDIM's steps from t, x̂₀ clipped as the scheduler asks.

    Args:
        network: predicts the noise.
        scheduler: of diffusers, with ᾱ.
        condition: the network's further arguments, of one row.
        x: latents `[B, *x_shape]`.
        v: directions `[B, D, *x_shape]`.
        strengths: K of them.
        t: timestep of the latents, in training units.
        steps: of the whole schedule.

    Returns:
        `[B, D, K, *x_shape]`.

    Cost: B D K passes of one row a step.
    """
    stride = scheduler.config.num_train_timesteps // steps
    grid = [*range(t, -1, -stride), -1]
    shares = scheduler.alphas_cumprod.tolist()
    coefficients = [
        ((1 - shares[at]) ** 0.5, shares[at] ** 0.5, *_arrival(shares, to))
        for at, to in pairwise(grid)
    ]
    times = torch.tensor(grid[:-1], device=x.device)[:, None]
    limit = scheduler.config.clip_sample_range if scheduler.config.clip_sample else None
    images = []
    for sample in range(len(x)):
        for direction in v[sample]:
            for strength in strengths:
                y = x[sample : sample + 1] + strength * direction
                for at, (sigma, signal, to_sigma, to_signal) in zip(
                    times, coefficients, strict=True
                ):
                    noise = network(y, at, **condition, return_dict=False)[0]
                    clean = (y - sigma * noise) / signal
                    if limit is not None:
                        clean = clean.clamp(-limit, limit)
                    y = to_signal * clean + to_sigma * noise
                images.append(y)
    return torch.cat(images).reshape(*v.shape[:2], len(strengths), *x.shape[1:])


def _arrival(shares: Sequence[float], t: int) -> tuple[float, float]:
    """Noise and signal at a timestep, −1 for the data."""
    share = 1.0 if t < 0 else shares[t]
    return (1 - share) ** 0.5, share**0.5
