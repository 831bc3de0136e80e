"""The noise that samples start from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy
import torch

from pullback._numbers import seed_of


def gaussian_noise(shape: Sequence[int], seeds: Sequence[int]) -> torch.Tensor:
    """One sample of noise per seed, the same whatever the number of samples.

    Args:
        shape: (C, H, W) of one sample.
        seeds: one per sample, whole numbers from 0 to 2³² − 1.

    Returns:
        `[B, *x_shape]`, float32 on the CPU.

    Raises:
        ValueError: a seed is no such number, which the generator would cut off or take modulo 2³².
    """
    draws = [
        torch.randn(
            tuple(shape),
            generator=torch.Generator("cpu").manual_seed(seed_of(seed)),
            dtype=torch.float32,
            device="cpu",
        )
        for seed in seeds
    ]
    return torch.stack(draws)


class FreshNoise:
    """The noise of stochastic steps: of each sample by its seed and the timestep arrived at.

    It is the same whatever the batch and whatever happened before, so that edits of one sample get
    the same noise and can be compared.

    Args:
        seeds: one per sample, whole numbers from 0 to 2³² − 1.

    Raises:
        ValueError: a seed is no such number.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self._seeds = [seed_of(seed) for seed in seeds]

    def at(self, t: float, like: torch.Tensor) -> torch.Tensor:
        """Noise for latents `[B, *x_shape]` that arrive at t, in training units; in their dtype."""
        rows = [
            # Of the pair, so that neighbouring seeds and timesteps do not share their noise.
            int(numpy.random.SeedSequence([seed, round((t + 1) * 1000)]).generate_state(1)[0])
            for seed in self._seeds
        ]
        return gaussian_noise(like.shape[1:], rows).to(like)
