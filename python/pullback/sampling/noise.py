"""The noise that samples start from."""

from __future__ import annotations

from collections.abc import Sequence

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
