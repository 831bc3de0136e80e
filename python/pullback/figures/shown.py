"""Latents as pages show them."""

from __future__ import annotations

import torch

from pullback.models import LatentModel


def shown(model: LatentModel, latents: torch.Tensor) -> torch.Tensor:
    """Latents `[..., *x_shape]` as `[..., C, H, W]`, with channels before frames.

    Args:
        model: whose latents they are.
        latents: any number of them, `[..., *x_shape]`.
    """
    # Where a model has a decoder of latents, its images_of(latents) belongs here.
    dims = len(model.latent_shape)
    return latents.movedim(model.family.channel_axis - dims, -dims)
