"""Latents as pages show them."""

from __future__ import annotations

import torch

from pullback.models import LatentModel


def shown(model: LatentModel, latents: torch.Tensor) -> torch.Tensor:
    """Latents as images, with channels before frames.

    Args:
        model: whose latents they are.
        latents: any number of them, such as `[B, *x_shape]` or `[B, D, K, *x_shape]`.

    Returns:
        As many images, such as `[B, C, H, W]`.
    """
    # Where a model has a decoder of latents, its images_of(latents) belongs here.
    dims = len(model.latent_shape)
    return latents.movedim(model.family.channel_axis - dims, -dims)
