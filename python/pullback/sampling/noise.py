"""The noise that samples start from."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def gaussian_noise(shape: Sequence[int], seeds: Sequence[int]) -> torch.Tensor:
    """One sample of noise per seed, the same whatever the number of samples.

    Args:
        shape: (C, H, W) of one sample.
        seeds: one per sample.

    Returns:
        `[B, C, H, W]`, float32 on the CPU.
    """
    draws = [
        torch.randn(
            tuple(shape),
            generator=torch.Generator("cpu").manual_seed(int(seed)),
            dtype=torch.float32,
            device="cpu",
        )
        for seed in seeds
    ]
    return torch.stack(draws)
